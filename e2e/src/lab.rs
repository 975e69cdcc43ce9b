//! What the host tests share: a scratch directory, the class paths, the client JVMs, and one name
//! server and broker of each kind that stay up from the first test that needs them to the end.
//! A test that stops or kills something starts its own.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::gantry::Gantry;
use crate::java::driver::{Client, Driver};
use crate::java::jars::Jars;
use crate::java::server::{self, CLUSTER, Encoding};
use crate::process::{Process, free_ports, local};
use crate::raw::{self, Connection};
use crate::runner::until;

/// Whose servers a test runs against: Gantry's, or the official ones that show the test is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Java,
    Gantry,
}

#[derive(Debug)]
pub struct Lab {
    pub seed: u64,
    gantry: Option<Gantry>,
    jars: Option<Jars>,
    drivers: BTreeMap<Client, Driver>,
    shared: BTreeMap<Target, Site>,
    /// What mqadmin printed, by target and step.
    pub printed: BTreeMap<(Target, String), String>,
    kept: Vec<Process>,
    dirs: u32,
    /// Last, so that it outlives the processes that write in it.
    dir: tempfile::TempDir,
}

/// A name server and one broker that is registered with it.
#[derive(Debug)]
pub struct Site {
    pub name_server: NameServer,
    pub broker: Process,
    pub plan: BrokerPlan,
}

#[derive(Debug)]
pub struct NameServer {
    pub process: Process,
    pub address: SocketAddr,
    /// Gantry's has metrics and probes.
    pub http: Option<SocketAddr>,
}

/// A broker's name, place and settings. Started again, it is the same broker.
#[derive(Debug, Clone)]
pub struct BrokerPlan {
    pub cluster: String,
    pub name: String,
    pub name_servers: Vec<SocketAddr>,
    /// Remoting; the three next to it belong to the broker too.
    pub port: u16,
    pub dir: PathBuf,
    pub segment_bytes: u64,
    pub flush_sync: bool,
    /// Gantry's broker speaks TLS to them.
    pub name_servers_tls: bool,
    /// Java asks the name server by data version before it registers again.
    pub ask_before_register: bool,
    /// The address that the route names; a witness may stand there.
    pub advertised: Ipv4Addr,
    /// More lines of Gantry's configuration.
    pub extra_yaml: String,
    /// More of them under `listen`.
    pub extra_listen: String,
    /// More lines of Java's, and options of its JVM.
    pub extra_properties: String,
}

impl BrokerPlan {
    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub fn http(&self) -> SocketAddr {
        local(self.port - 1)
    }

    pub fn remoting(&self) -> SocketAddr {
        local(self.port)
    }

    pub fn advertise(&self) -> SocketAddr {
        SocketAddr::from((self.advertised, self.port))
    }
}

/// What a test needs to know of the shared site.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub name_server: SocketAddr,
    pub name_server_http: Option<SocketAddr>,
    pub broker: SocketAddr,
    pub broker_http: SocketAddr,
}

/// Small enough that a test of some thousand messages fills several.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

const REGISTER_SECONDS_MAX: u64 = 20;

impl Lab {
    pub fn new(gantry: Option<PathBuf>, seed: u64) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("gantry-e2e-").tempdir()?;
        Ok(Self {
            seed,
            gantry: gantry.map(Gantry),
            jars: None,
            drivers: BTreeMap::new(),
            shared: BTreeMap::new(),
            printed: BTreeMap::new(),
            kept: Vec::new(),
            dirs: 0,
            dir,
        })
    }

    pub fn gantry(&self) -> anyhow::Result<Gantry> {
        let gantry = self.gantry.as_ref();
        gantry
            .cloned()
            .context("--gantry PATH is needed for this test")
    }

    /// A directory that is this caller's alone.
    pub fn fresh_dir(&mut self, name: &str) -> anyhow::Result<PathBuf> {
        self.dirs += 1;
        let dir = self.dir.path().join(format!("{:02}-{name}", self.dirs));
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    pub async fn jars(&mut self) -> anyhow::Result<Jars> {
        if self.jars.is_none() {
            self.jars = Some(Jars::ready().await?);
        }
        self.jars.clone().context("invariant: set above")
    }

    /// The JVM with this client.
    pub async fn driver(&mut self, client: Client) -> anyhow::Result<&mut Driver> {
        let jars = self.jars().await?;
        let home = self.dir.path().join(format!("{client:?}"));
        match self.drivers.entry(client) {
            Entry::Occupied(driver) => Ok(driver.into_mut()),
            Entry::Vacant(place) => {
                let driver = Driver::start(&jars, client, &home).await?;
                Ok(place.insert(driver))
            }
        }
    }

    /// The site that tests share when they break nothing.
    pub async fn shared(&mut self, target: Target) -> anyhow::Result<Addresses> {
        if !self.shared.contains_key(&target) {
            let site = self.site(target, "shared").await?;
            self.shared.insert(target, site);
        }
        let site = self.shared.get(&target).context("invariant: set above")?;
        Ok(Addresses {
            name_server: site.name_server.address,
            name_server_http: site.name_server.http,
            broker: site.plan.remoting(),
            broker_http: site.plan.http(),
        })
    }

    /// A name server and a broker of the caller's own.
    pub async fn site(&mut self, target: Target, name: &str) -> anyhow::Result<Site> {
        self.site_with(target, name, "").await
    }

    /// The same with more lines of Java's configuration.
    pub async fn site_with(
        &mut self,
        target: Target,
        name: &str,
        properties: &str,
    ) -> anyhow::Result<Site> {
        let name_server = self.name_server(target).await?;
        let mut plan = self.plan(name, &[name_server.address])?;
        properties.clone_into(&mut plan.extra_properties);
        let broker = self.broker(target, &plan).await?;
        Ok(Site {
            name_server,
            broker,
            plan,
        })
    }

    pub async fn name_server(&mut self, target: Target) -> anyhow::Result<NameServer> {
        let address = local(free_ports(2)?);
        self.name_server_at(target, address).await
    }

    /// A name server at an address that an earlier one has left; its pages are one port above.
    pub async fn name_server_at(
        &mut self,
        target: Target,
        address: SocketAddr,
    ) -> anyhow::Result<NameServer> {
        let dir = self.fresh_dir("namesrv")?;
        match target {
            Target::Java => {
                let jars = self.jars().await?;
                let encoding = Encoding::Json;
                let started = server::start_name_server(&jars, &dir, address, encoding).await?;
                Ok(NameServer {
                    process: started.process,
                    address: started.address,
                    http: None,
                })
            }
            Target::Gantry => {
                let http = local(address.port() + 1);
                let gantry = self.gantry()?;
                let log = dir.join("out.log");
                let process = gantry.start_name_server(address, http, &log).await?;
                Ok(NameServer {
                    process,
                    address,
                    http: Some(http),
                })
            }
        }
    }

    pub fn plan(&mut self, name: &str, servers: &[SocketAddr]) -> anyhow::Result<BrokerPlan> {
        Ok(BrokerPlan {
            cluster: CLUSTER.to_owned(),
            name: format!("broker-{name}"),
            name_servers: servers.to_vec(),
            port: server::broker_port()?,
            dir: self.fresh_dir(name)?,
            segment_bytes: SEGMENT_BYTES,
            flush_sync: false,
            name_servers_tls: false,
            ask_before_register: false,
            advertised: Ipv4Addr::LOCALHOST,
            extra_yaml: String::new(),
            extra_listen: String::new(),
            extra_properties: String::new(),
        })
    }

    /// Starts a broker and waits until its name servers know it.
    pub async fn broker(&mut self, target: Target, plan: &BrokerPlan) -> anyhow::Result<Process> {
        let process = match target {
            Target::Java => {
                let spec = server::BrokerSpec {
                    name: plan.name.clone(),
                    name_servers: plan.name_servers.iter().map(ToString::to_string).collect(),
                    port: plan.port,
                    advertised: plan.advertised,
                    dir: plan.dir.clone(),
                    segment_bytes: plan.segment_bytes,
                    encoding: Encoding::Json,
                    flush_sync: plan.flush_sync,
                    ask_before_register: plan.ask_before_register,
                    extra: plan.extra_properties.clone(),
                };
                server::start_broker(&self.jars().await?, &spec).await?
            }
            Target::Gantry => self.gantry()?.start_broker(plan).await?,
        };
        for name_server in &plan.name_servers {
            registered(*name_server, plan).await?;
        }
        Ok(process)
    }

    /// A file for a producer's or consumer's records.
    pub fn record_file(&mut self, name: &str) -> PathBuf {
        self.dirs += 1;
        self.dir
            .path()
            .join(format!("{:02}-{name}.records", self.dirs))
    }

    /// Lets a process run until the lab ends.
    pub fn keep(&mut self, process: Process) {
        self.kept.push(process);
    }
}

/// The topic that stands for automatic creation, which every broker here registers.
const AUTO_CREATE_TOPIC: &str = "TBW102";

async fn registered(name_server: SocketAddr, plan: &BrokerPlan) -> anyhow::Result<()> {
    let limit = Duration::from_secs(REGISTER_SECONDS_MAX);
    until("the broker is in the route", limit, async || {
        let route = route(name_server, AUTO_CREATE_TOPIC).await?;
        let route = route.context("no route for automatic creation")?;
        let address = plan.advertise().to_string();
        ensure!(
            route.contains(&plan.name) && route.contains(&address),
            "{address} is not in {route}"
        );
        Ok(())
    })
    .await
}

/// A topic's route as the name server writes it; `None` when it has none.
pub async fn route(name_server: SocketAddr, topic: &str) -> anyhow::Result<Option<String>> {
    const GET_ROUTE: i32 = 105;
    const TOPIC_NOT_EXIST: i64 = 17;
    let request = raw::json_request(GET_ROUTE, 1, &[("topic", topic)], b"");
    let answer = Connection::open(name_server).await?.call(&request).await?;
    match answer.code {
        0 => Ok(Some(String::from_utf8(answer.body)?)),
        TOPIC_NOT_EXIST => Ok(None),
        code => anyhow::bail!("the route of {topic}: code {code}: {}", answer.remark),
    }
}
