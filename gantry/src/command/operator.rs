//! `gantry operator`

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The one namespace to look after; all when absent.
    #[arg(long, default_value = "")]
    namespace: String,
    /// Address of metrics and probes.
    #[arg(long, default_value = "0.0.0.0:8080")]
    http: SocketAddr,
    /// Image of brokers and name servers, where a BrokerCluster names none.
    #[arg(long, env = "GANTRY_IMAGE")]
    image: String,
    /// The domain of Service names.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Holds the files `accessKey` and `secretKey`, to sign calls to brokers.
    #[arg(long)]
    credentials_dir: Option<PathBuf>,
    /// Where the leader's Lease lies.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// Name under which this process holds the Lease; by chance when absent. No two operators
    /// that run at the same time may share it.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
}

pub(crate) async fn run(arguments: Arguments, stop: CancellationToken) -> anyhow::Result<()> {
    let Arguments {
        namespace,
        http,
        image,
        cluster_domain,
        credentials_dir,
        lease_namespace,
        identity,
    } = arguments;
    let identity = identity.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
    let options = ::operator::Options {
        namespace,
        http,
        image,
        cluster_domain,
        credentials_dir,
        lease_namespace,
        identity,
    };
    Ok(::operator::run(options, stop, || {}).await?)
}
