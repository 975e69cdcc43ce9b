//! `gantry namesrv`

use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

use super::unix_ms;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address for brokers and clients.
    #[arg(long, default_value = "0.0.0.0:9876")]
    listen: SocketAddr,
    /// Address of metrics and probes.
    #[arg(long, default_value = "0.0.0.0:5557")]
    http: SocketAddr,
}

pub(crate) async fn run(arguments: Arguments, stop: CancellationToken) -> anyhow::Result<()> {
    let options = ::namesrv::Options {
        listen: arguments.listen,
        http: arguments.http,
        limits: net::Limits::default(),
        clock: unix_ms,
    };
    Ok(::namesrv::run(options, stop, || {}).await?)
}
