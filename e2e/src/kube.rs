//! The kube stage: the operator, its brokers and official Java clients on a real Kubernetes.
//!
//! - [`kubectl`]: the one way in, for tests as for users
//! - [`client`]: a JVM inside the cluster's network
//! - [`resources`]: the corpus of accepted and refused resources, judged by the API server
//! - [`cluster`]: a BrokerCluster with a Topic and a ConsumerGroup: conditions, events, pages
//! - [`operations`]: what people do with a cluster on the second day
//! - [`pages`]: metrics and probes of every pod
//! - [`readme`]: what a newcomer does
//! - [`messages`]: 10,000 messages that outlive a pod and a node
//!
//! The operator is there already; everything else happens in a namespace of the run's own. The
//! tests stand in the order of a cluster's life: the later ones need what the earlier made, and
//! make it themselves when they run alone.

pub mod kubectl;
pub mod client;
pub mod resources;
pub mod cluster;
pub mod operations;
pub mod pages;
pub mod readme;
pub mod messages;

use std::path::PathBuf;
use std::time::Duration;

use self::client::{Client, Clients};
use self::kubectl::Kubectl;
use crate::java::jars::Jars;
use crate::runner::{Running, Test};

/// Where to run, and how much.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Kubeconfig of a cluster that has the operator.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// The cluster is the one of e2e/cluster in this checkout: clients join its nodes' networks,
    /// and nodes lose power.
    #[arg(long)]
    pub local: bool,
    /// Elsewhere clients are pods of this image, which `e2e client-image` makes.
    #[arg(long, default_value = "localhost/gantry-clients:test")]
    pub client_image: String,
    /// Namespace of the operator.
    #[arg(long, default_value = "gantry-system")]
    pub operator_namespace: String,
    /// Messages that are passed.
    #[arg(long, default_value_t = 10_000)]
    pub messages: usize,
}

#[derive(Debug)]
pub struct Lab {
    pub options: Options,
    pub kubectl: Kubectl,
    pub clients: Clients,
    /// The demo cluster is known to be Ready.
    pub is_ready: bool,
    /// Last, so that it outlives the clients that write in it.
    dir: tempfile::TempDir,
}

/// Longest time for pods to come up, with their images already on the nodes.
pub const READY: Duration = Duration::from_mins(3);

impl Lab {
    pub async fn new(options: Options) -> anyhow::Result<Self> {
        let namespace = format!("e2e-{}", std::process::id());
        let kubectl = Kubectl::new(&options.kubeconfig, &namespace)?;
        let dir = tempfile::tempdir()?;
        let image = (!options.local).then(|| options.client_image.clone());
        let clients = Clients::new(Jars::ready().await?, image);
        kubectl.ok(&["create", "namespace", &namespace]).await?;
        if options.local {
            // As strict as Kubernetes is with pods anywhere; elsewhere clients are pods here.
            let strict = "pod-security.kubernetes.io/enforce=restricted";
            kubectl
                .ok(&["label", "namespace", &namespace, strict])
                .await?;
        }
        Ok(Self {
            options,
            kubectl,
            clients,
            is_ready: false,
            dir,
        })
    }

    /// Takes the namespace away with all that is in it.
    pub async fn clean(self) -> anyhow::Result<()> {
        let namespace = self.kubectl.namespace.clone();
        self.kubectl
            .ok(&["delete", "namespace", &namespace, "--timeout=120s"])
            .await?;
        Ok(())
    }

    /// A file for the records of a client.
    pub fn record_file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A JVM in the cluster's network that does not live on `node`.
    pub async fn client_away_from(&mut self, node: &str) -> anyhow::Result<Client> {
        let dir = self.dir.path();
        self.clients.start(&self.kubectl, node, dir).await
    }
}

type Row = (&'static str, fn(&mut Lab) -> Running<'_>);

pub fn tests() -> Vec<Test<Lab>> {
    let rows: Vec<Row> = vec![
        ("accepted_resources_are_accepted", |lab| {
            Box::pin(resources::accepted(lab))
        }),
        ("refused_resources_get_their_exact_message", |lab| {
            Box::pin(resources::refused(lab))
        }),
        ("three_resources_become_ready", |lab| {
            Box::pin(cluster::become_ready(lab))
        }),
        ("events_tell_of_readiness", |lab| {
            Box::pin(cluster::events(lab))
        }),
        ("a_group_has_volume_and_stable_address", |lab| {
            Box::pin(cluster::addresses(lab))
        }),
        ("metrics_and_probes_are_served_by_every_pod", |lab| {
            Box::pin(pages::of_every_pod(lab))
        }),
        ("the_readme_leads_to_a_message_and_its_metrics", |lab| {
            Box::pin(readme::walk(lab))
        }),
        ("kubectl_diff_finds_nothing_after_an_apply", |lab| {
            Box::pin(operations::no_difference(lab))
        }),
        ("volumes_grow_without_a_restart", |lab| {
            Box::pin(operations::volumes_grow(lab))
        }),
        ("a_bad_image_stops_at_one_pod_and_heals", |lab| {
            Box::pin(operations::bad_image(lab))
        }),
        ("a_cluster_is_scaled_by_its_sub_resource", |lab| {
            Box::pin(operations::scale(lab))
        }),
        ("a_changed_property_restarts_each_broker_once", |lab| {
            Box::pin(operations::config(lab))
        }),
        ("a_deleted_cluster_leaves_its_volumes", |lab| {
            Box::pin(operations::delete(lab))
        }),
        ("messages_outlive_pod_and_node", |lab| {
            Box::pin(messages::outlive_pod_and_node(lab))
        }),
    ];
    let test = |(name, run): Row| Test {
        name: format!("kube::{name}"),
        run: Box::new(move |lab: &mut Lab| run(lab)),
    };
    rows.into_iter().map(test).collect()
}
