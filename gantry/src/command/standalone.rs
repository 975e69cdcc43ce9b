//! `gantry standalone`: name server and broker in one process, on a local directory. It reads
//! the same Topic and ConsumerGroup documents that `kubectl apply` takes.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use broker::Config;
use crds::read::Document;
use net::{Connection, Limits, Tls, TlsMode};
use protocol::body::TopicConfig;
use protocol::header::{Empty, TopicOf};
use protocol::json::{from_fastjson, to_json};
use protocol::{Frame, RequestCode};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::unix_ms;
use crate::admin::CALL_MAX;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the messages are kept.
    #[arg(long, default_value = ".gantry/standalone")]
    data_dir: PathBuf,
    /// Topic and ConsumerGroup documents to apply; may be given several times.
    #[arg(short, long = "file")]
    files: Vec<PathBuf>,
    /// The address that clients connect to.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    #[arg(long, default_value_t = 9_876)]
    name_server_port: u16,
    #[arg(long, default_value_t = 10_911)]
    broker_port: u16,
    /// Metrics and probes of the broker.
    #[arg(long, default_value_t = 5_557)]
    http_port: u16,
    /// Metrics and probes of the name server.
    #[arg(long, default_value_t = 5_558)]
    name_server_http_port: u16,
    /// Refuse sends to unknown topics instead of creating them.
    #[arg(long)]
    no_auto_create: bool,
}

pub(crate) async fn run(arguments: Arguments, stop: CancellationToken) -> anyhow::Result<()> {
    let resources = read(&arguments.files)?;
    let at = |port| SocketAddr::new(arguments.host, port);
    let name_server = ::namesrv::Options {
        listen: at(arguments.name_server_port),
        http: at(arguments.name_server_http_port),
        net: net::Options {
            limits: Limits::default(),
            tls: Tls::open(TlsMode::Permissive, None)?,
            proxy_from: Vec::new(),
        },
        clock: unix_ms,
    };
    let config = config(&arguments)?;
    let routed = Arc::new(Notify::new());
    let started = Arc::new(Notify::new());
    let (routed_then, started_then) = (Arc::clone(&routed), Arc::clone(&started));
    // The broker stops first, so that it can still say goodbye to the name server.
    let name_server_stop = CancellationToken::new();
    let names = async {
        let result = ::namesrv::run(name_server, name_server_stop.clone(), move || {
            routed_then.notify_one();
        })
        .await;
        stop.cancel();
        anyhow::Ok(result?)
    };
    let broker = async {
        routed.notified().await;
        let result = ::broker::run(config, stop.clone(), move || started_then.notify_one()).await;
        started.notify_one();
        name_server_stop.cancel();
        anyhow::Ok(result?)
    };
    let resources = async {
        started.notified().await;
        if name_server_stop.is_cancelled() {
            return Ok(());
        }
        let applied = apply(&resources, at(arguments.broker_port)).await;
        if applied.is_err() {
            stop.cancel();
        }
        applied?;
        print_endpoints(&arguments, &resources)
    };
    let (names, broker, resources) = tokio::join!(names, broker, resources);
    names.and(broker).and(resources)
}

fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut resources = Vec::new();
    for file in files {
        let name = file.display();
        let text = std::fs::read_to_string(file).with_context(|| format!("{name}"))?;
        for document in crds::read::read(&text).with_context(|| format!("{name}"))? {
            if matches!(document, Document::BrokerCluster(_)) {
                bail!("{name}: a BrokerCluster is for Kubernetes; standalone is one broker");
            }
            resources.push(document);
        }
    }
    Ok(resources)
}

/// The broker's configuration, by way of YAML so that it obeys the same rules.
fn config(arguments: &Arguments) -> anyhow::Result<Config> {
    let at = |port| SocketAddr::new(arguments.host, port).to_string();
    let config = serde_json::json!({
        "cluster": "standalone",
        "broker": "standalone-0",
        "dataDir": arguments.data_dir,
        "listen": {"remoting": at(arguments.broker_port), "http": at(arguments.http_port)},
        "advertise": at(arguments.broker_port),
        "storeHost": at(arguments.broker_port),
        "nameServers": [at(arguments.name_server_port)],
        "autoCreateTopics": !arguments.no_auto_create,
    });
    Ok(Config::parse(
        &config.to_string(),
        Path::new("of standalone"),
    )?)
}

/// Applies the documents by the admin protocol, as the operator does.
async fn apply(resources: &[Document], broker: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::open(&broker.to_string(), CALL_MAX).await?;
    for resource in resources {
        let request = match resource {
            Document::Topic(topic) => {
                let wanted = ::operator::topic_config(topic);
                let of = TopicOf {
                    topic: wanted.topic_name.clone(),
                    cluster: None,
                };
                let answer =
                    connection.call(Frame::request(RequestCode::GetTopicConfig, &of), CALL_MAX);
                let found: Option<TopicConfig> = from_fastjson(&answer.await?.body).ok();
                let header = ::operator::create_topic(&wanted, found.as_ref());
                Frame::request(RequestCode::UpdateAndCreateTopic, &header)
            }
            Document::ConsumerGroup(group) => {
                Frame::request(RequestCode::UpdateAndCreateSubscriptiongroup, &Empty)
                    .with_body(to_json(&::operator::group_config(group)))
            }
            Document::BrokerCluster(_) => continue,
        };
        connection.ask(request, CALL_MAX).await?;
    }
    Ok(())
}

/// Where it listens, and one line to try for each way in.
fn print_endpoints(arguments: &Arguments, resources: &[Document]) -> anyhow::Result<()> {
    let topic = resources
        .iter()
        .find_map(|resource| match resource {
            Document::Topic(topic) => Some(::operator::topic_config(topic).topic_name),
            Document::ConsumerGroup(_) | Document::BrokerCluster(_) => None,
        })
        .unwrap_or_else(|| "quickstart".to_owned());
    let at = |port| SocketAddr::new(arguments.host, port);
    let name_server = at(arguments.name_server_port);
    let gantry = std::env::current_exe()?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "Gantry is up, its data in {}",
        arguments.data_dir.display()
    )?;
    writeln!(out, "  name server  {name_server}")?;
    writeln!(out, "  broker       {}", at(arguments.broker_port))?;
    writeln!(
        out,
        "  metrics      http://{}/metrics",
        at(arguments.http_port)
    )?;
    writeln!(out, "Try, in another terminal:")?;
    let gantry = gantry.display();
    writeln!(
        out,
        "$ {gantry} message send {topic} hello --name-server {name_server}"
    )?;
    writeln!(
        out,
        "$ mvn -q -f examples/java compile exec:java -Dexec.args='{name_server} {topic}'"
    )?;
    writeln!(
        out,
        "$ curl -fsS http://{}/metrics",
        at(arguments.http_port)
    )?;
    out.flush()?;
    Ok(())
}
