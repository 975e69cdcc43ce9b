//! A Kubernetes control plane on loopback, and the operator as one of its clients.
//!
//! The programs are those that `e2e/cluster/cluster build` compiles. Users are told apart by
//! static tokens; the operator is the ServiceAccount of `charts/install.yaml`, and has the rights
//! that this file gives it and no more.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::config::KubeConfigOptions;
use serde_json::Value;
use tokio::process::Command;

use crate::gantry::Gantry;
use crate::java::jars::cache_dir;
use crate::kube::kubectl::Kubectl;
use crate::process::{Output, Process, free_ports, local, run, run_ok};
use crate::runner::until;

const ADMIN: &str = "admin";
const OPERATOR: &str = "operator";
/// Where the chart puts the operator, and its leader's Lease.
pub const OPERATOR_NAMESPACE: &str = "gantry-system";
/// Whose volumes may grow.
pub const STORAGE_CLASS: &str = "grows";
/// The operator's default for brokers.
const IMAGE: &str = "gantry:test";
const START_SECONDS_MAX: u64 = 60;
const CONTROLLERS: &str =
    "garbage-collector-controller,namespace-controller,statefulset-controller";

/// What is written to the audit log: who wrote what, without bodies.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Metadata, verbs: [create, update, patch, delete, deletecollection]}
- {level: None}
";

pub struct Plane {
    gantry: Gantry,
    dir: PathBuf,
    api: SocketAddr,
    operators: AtomicU32,
    /// As the administrator.
    pub kubectl: Kubectl,
    pub client: kube::Client,
    /// Stopped in this order.
    _processes: [Process; 3],
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane")
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

impl Plane {
    /// With Gantry installed, but for the operator itself.
    pub async fn start(dir: &Path, gantry: &Gantry) -> anyhow::Result<Self> {
        let plane = Self::bare(dir, gantry).await?;
        plane.install().await?;
        Ok(plane)
    }

    /// As Kubernetes is when it is new.
    pub async fn bare(dir: &Path, gantry: &Gantry) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let ports = free_ports(3)?;
        let etcd = start_etcd(dir, ports)?;
        let api = local(ports + 2);
        let server = start_api_server(dir, ports, api).await?;
        let admin = kubeconfig(dir, ADMIN, &format!("https://{api}"))?;
        let kubectl = Kubectl::new(&admin, "default")?;
        until(
            "the API server is ready",
            Duration::from_secs(START_SECONDS_MAX),
            async || {
                kubectl.ok(&["get", "--raw=/readyz"]).await?;
                Ok(())
            },
        )
        .await?;
        let manager = program("kube-controller-manager")?
            .arg("--kubeconfig")
            .arg(&admin)
            .args(["--leader-elect=false", "--secure-port=0"])
            .arg(format!("--controllers={CONTROLLERS}"))
            .spawn_as("controller-manager", dir)?;
        Ok(Self {
            gantry: gantry.clone(),
            dir: dir.to_owned(),
            api,
            operators: AtomicU32::new(0),
            kubectl,
            client: client(&admin).await?,
            _processes: [manager, server, etcd],
        })
    }

    /// CRDs and rights, by the one file. The operator itself is no pod here: each test starts its
    /// own.
    async fn install(&self) -> anyhow::Result<()> {
        let kubectl = Kubectl::new(&self.dir.join(format!("{ADMIN}.conf")), OPERATOR_NAMESPACE)?;
        kubectl.apply(&charts().join("install.yaml")).await?;
        kubectl.ok(&["delete", "deployment", "--all"]).await?;
        self.storage_class().await?;
        let wait = ["wait", "--for=condition=Established", "crd", "--all"];
        self.kubectl.ok(&wait).await?;
        Ok(())
    }

    /// Makes the class whose volumes may grow.
    pub async fn storage_class(&self) -> anyhow::Result<()> {
        let class = serde_json::json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": STORAGE_CLASS}, "provisioner": "test.gantry.dev/nobody",
            "allowVolumeExpansion": true,
        });
        let path = format!("/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}");
        self.apply(&path, &class).await?;
        Ok(())
    }

    /// Helm as the administrator.
    pub async fn helm(&self, words: &[&str]) -> anyhow::Result<Output> {
        let mut helm = Command::new(cache_dir()?.join("cluster/bin/helm"));
        helm.env("KUBECONFIG", self.dir.join(format!("{ADMIN}.conf")));
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(folder, self.dir.join("helm"));
        }
        helm.args(words)
            .args(["--namespace", OPERATOR_NAMESPACE])
            .current_dir(charts());
        run(helm, Duration::from_secs(START_SECONDS_MAX)).await
    }

    pub async fn namespace(&self, name: &str) -> anyhow::Result<Kubectl> {
        // As strict as Kubernetes is with pods anywhere.
        let labels = serde_json::json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        });
        let path = format!("/api/v1/namespaces/{name}");
        self.apply(&path, &object).await?;
        Kubectl::new(&self.dir.join(format!("{ADMIN}.conf")), name)
    }

    /// Starts an operator for one namespace that holds the Lease as `identity`. `server` is the
    /// API server unless a proxy stands before it. Its own pages are at the address returned.
    pub fn operator(
        &self,
        namespace: &str,
        identity: &str,
        server: Option<SocketAddr>,
    ) -> anyhow::Result<(Process, SocketAddr)> {
        let url = server.map_or_else(
            || format!("https://{}", self.api),
            |proxy| format!("http://{proxy}"),
        );
        let number = self.operators.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(format!("operator-{number}"));
        std::fs::create_dir_all(&dir)?;
        let config = kubeconfig(&dir, OPERATOR, &url)?;
        let http = local(free_ports(1)?);
        let mut command = Command::new(&self.gantry.0);
        command
            .env("KUBECONFIG", &config)
            .env("POD_NAMESPACE", OPERATOR_NAMESPACE)
            .env("POD_NAME", identity)
            .arg("operator")
            .args(["--namespace", namespace, "--image", IMAGE])
            .args(["--http", &http.to_string()]);
        let process = Process::start("gantry operator", command, &dir.join("out.log"))?;
        Ok((process, http))
    }

    /// A client that has the operator's rights.
    pub async fn operator_client(&self) -> anyhow::Result<kube::Client> {
        let file = kubeconfig(&self.dir, OPERATOR, &format!("https://{}", self.api))?;
        client(&file).await
    }

    /// Writes of the operator that the audit log holds: its lines, as objects.
    pub fn operator_writes(&self) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.dir.join("audit.log"))?;
        let mut found = Vec::new();
        for line in text.lines() {
            let entry: Value = serde_json::from_str(line).context("a line of the audit log")?;
            if entry["user"]["username"] == user() {
                found.push(entry);
            }
        }
        Ok(found)
    }

    /// Creates or changes an object as an administrator, by server-side apply.
    pub async fn apply(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        let request = http::Request::patch(format!("{path}?fieldManager=test&force=true"))
            .header("content-type", "application/apply-patch+yaml")
            .body(serde_json::to_vec(object)?)?;
        Ok(self.client.request(request).await?)
    }

    /// One object or list by its path, as the API server has it.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(self.client.request(request).await?)
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        let request = http::Request::delete(path).body(Vec::new())?;
        let _: Value = self.client.request(request).await?;
        Ok(())
    }
}

async fn client(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await?;
    Ok(kube::Client::try_from(config)?)
}

/// The folder of the charts.
pub fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

fn user() -> String {
    format!("system:serviceaccount:{OPERATOR_NAMESPACE}:gantry")
}

fn start_etcd(dir: &Path, ports: u16) -> anyhow::Result<Process> {
    let (clients, peers) = (
        format!("http://{}", local(ports)),
        format!("http://{}", local(ports + 1)),
    );
    program("etcd")?
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", &clients])
        .args(["--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers])
        .args(["--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        .args(["--unsafe-no-fsync", "--log-level", "warn"])
        .spawn_as("etcd", dir)
}

async fn start_api_server(dir: &Path, ports: u16, api: SocketAddr) -> anyhow::Result<Process> {
    let key = dir.join("sa.key");
    let mut openssl = Command::new("openssl");
    openssl.args([
        "ecparam",
        "-genkey",
        "-noout",
        "-name",
        "prime256v1",
        "-out",
    ]);
    run_ok(
        {
            openssl.arg(&key);
            openssl
        },
        Duration::from_secs(START_SECONDS_MAX),
    )
    .await?;
    let (tokens, policy) = (dir.join("tokens.csv"), dir.join("audit.yaml"));
    let users = format!(
        "{ADMIN},{ADMIN},1,\"system:masters\"\n{OPERATOR},{},2\n",
        user()
    );
    std::fs::write(&tokens, users)?;
    std::fs::write(&policy, AUDIT_POLICY)?;
    let file = |name: &str, path: &Path| format!("--{name}={}", path.display());
    program("kube-apiserver")?
        .arg(format!("--etcd-servers=http://{}", local(ports)))
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
        .arg(format!("--secure-port={}", api.port()))
        .arg(file("cert-dir", &dir.join("certs")))
        .arg(file("token-auth-file", &tokens))
        .arg(file("service-account-key-file", &key))
        .arg(file("service-account-signing-key-file", &key))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .args([
            "--authorization-mode=RBAC",
            "--endpoint-reconciler-type=none",
        ])
        .arg("--service-cluster-ip-range=10.96.0.0/16")
        // Pods get no tokens: they never run.
        .arg("--disable-admission-plugins=ServiceAccount")
        .arg(file("audit-policy-file", &policy))
        .arg(file("audit-log-path", &dir.join("audit.log")))
        .spawn_as("apiserver", dir)
}

/// A kubeconfig for one of the users, beside the logs.
fn kubeconfig(dir: &Path, user: &str, server: &str) -> anyhow::Result<PathBuf> {
    let path = dir.join(format!("{user}.conf"));
    let cluster = serde_json::json!({"server": server, "insecure-skip-tls-verify": true});
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "plane",
        "clusters": [{"name": "plane", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": user}}],
        "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": user}}],
    });
    std::fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
    Ok(path)
}

/// A program of the local cluster.
fn program(name: &str) -> anyhow::Result<Program> {
    let path = cache_dir()?.join("cluster/bin").join(name);
    ensure!(
        path.exists(),
        "no {}: run e2e/cluster/cluster build",
        path.display()
    );
    Ok(Program(Command::new(path)))
}

struct Program(Command);

impl Program {
    fn arg(mut self, word: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.arg(word);
        self
    }

    fn args<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.0.args(words);
        self
    }

    fn spawn_as(self, name: &str, dir: &Path) -> anyhow::Result<Process> {
        Process::start(name, self.0, &dir.join(format!("{name}.log")))
    }
}
