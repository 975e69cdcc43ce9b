//! The official name server and broker, each in a directory of its own: the reference that every
//! check is tried on first, and the other end of the interoperation tests.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::jars::{ClassPath, Jars};
use crate::process::{Process, free_ports, local};

const START_SECONDS_MAX: u64 = 120;

#[derive(Debug)]
pub struct NameServer {
    pub process: Process,
    pub address: SocketAddr,
}

pub async fn start_name_server(
    jars: &Jars,
    dir: &Path,
    address: SocketAddr,
    encoding: Encoding,
) -> anyhow::Result<NameServer> {
    std::fs::create_dir_all(dir)?;
    let config = dir.join("namesrv.properties");
    let store = dir.join("kv.json");
    let text = format!(
        "listenPort={}\nkvConfigPath={}\n",
        address.port(),
        store.display()
    );
    std::fs::write(&config, text)?;
    let mut command = super::command(&jars.class_path(ClassPath::Server), dir, 128);
    command
        .arg(encoding.option())
        .arg("org.apache.rocketmq.namesrv.NamesrvStartup")
        .arg("-c")
        .arg(&config);
    let mut process = Process::start("Java's name server", command, &dir.join("out.log"))?;
    process
        .listening(address, Duration::from_secs(START_SECONDS_MAX))
        .await?;
    Ok(NameServer { process, address })
}

/// What a Java process writes its headers in, whatever it was asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Binary,
}

impl Encoding {
    pub fn option(self) -> &'static str {
        match self {
            Self::Json => "-Drocketmq.serialize.type=JSON",
            Self::Binary => "-Drocketmq.serialize.type=ROCKETMQ",
        }
    }
}

/// A broker's place and settings; the same spec started twice is a restart.
#[derive(Debug, Clone)]
pub struct BrokerSpec {
    pub name: String,
    pub name_servers: Vec<String>,
    pub port: u16,
    /// The address that the route names; a recording proxy may stand there.
    pub advertised: Ipv4Addr,
    /// Holds `store/` and the broker's own files.
    pub dir: PathBuf,
    pub segment_bytes: u64,
    pub encoding: Encoding,
    pub flush_sync: bool,
    /// Asks by data version before it registers again, and does so every 10 s.
    pub ask_before_register: bool,
    /// More lines of the configuration; a later line wins. Those that begin with - are options of
    /// the JVM, in place of those for tests.
    pub extra: String,
}

/// A port for remoting with its neighbours: the VIP port two below, HA one above.
pub fn broker_port() -> anyhow::Result<u16> {
    Ok(free_ports(4)? + 2)
}

pub async fn start_broker(jars: &Jars, spec: &BrokerSpec) -> anyhow::Result<Process> {
    let class_path = jars.class_path(ClassPath::Server);
    let options: Vec<&str> = spec.extra.lines().filter(|line| is_option(line)).collect();
    let mut command = if options.is_empty() {
        super::command(&class_path, &spec.dir, 512)
    } else {
        super::command_with(&class_path, &spec.dir, &options)
    };
    std::fs::create_dir_all(&spec.dir)?;
    let config = spec.dir.join("broker.conf");
    std::fs::write(&config, properties(spec)?)?;
    command
        .arg(spec.encoding.option())
        .arg("org.apache.rocketmq.broker.BrokerStartup")
        .arg("-c")
        .arg(&config);
    let mut process = Process::start("Java's broker", command, &spec.dir.join("out.log"))?;
    let limit = Duration::from_secs(START_SECONDS_MAX);
    process.listening(local(spec.port), limit).await?;
    Ok(process)
}

fn is_option(line: &str) -> bool {
    line.starts_with('-')
}

fn properties(spec: &BrokerSpec) -> anyhow::Result<String> {
    let mut text = String::new();
    let flush = if spec.flush_sync {
        "SYNC_FLUSH"
    } else {
        "ASYNC_FLUSH"
    };
    writeln!(text, "brokerClusterName={CLUSTER}")?;
    writeln!(text, "brokerName={}", spec.name)?;
    writeln!(text, "brokerId=0")?;
    writeln!(text, "namesrvAddr={}", spec.name_servers.join(";"))?;
    writeln!(text, "listenPort={}", spec.port)?;
    writeln!(text, "haListenPort={}", spec.port + 1)?;
    writeln!(text, "bindAddress={}", Ipv4Addr::LOCALHOST)?;
    writeln!(text, "brokerIP1={}", spec.advertised)?;
    writeln!(
        text,
        "storePathRootDir={}",
        spec.dir.join("store").display()
    )?;
    writeln!(text, "mappedFileSizeCommitLog={}", spec.segment_bytes)?;
    writeln!(text, "flushDiskType={flush}")?;
    writeln!(text, "autoCreateTopicEnable=true")?;
    // Gantry always has the topic of the traces.
    writeln!(text, "traceTopicEnable=true")?;
    writeln!(text, "enablePropertyFilter=true")?;
    writeln!(text, "forceRegister={}", !spec.ask_before_register)?;
    writeln!(text, "registerNameServerPeriod=10000")?;
    // A full or slow disk of the machine is not what is tested.
    writeln!(text, "diskMaxUsedSpaceRatio=95")?;
    writeln!(text, "waitTimeMillsInSendQueue=10000")?;
    writeln!(text, "osPageCacheBusyTimeOutMills=10000")?;
    for line in spec.extra.lines().filter(|line| !is_option(line)) {
        writeln!(text, "{line}")?;
    }
    Ok(text)
}

/// The cluster name of every broker here.
pub const CLUSTER: &str = "e2e";
