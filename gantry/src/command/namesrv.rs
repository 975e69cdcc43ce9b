//! `gantry namesrv`

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use net::{Limits, Network, PemFiles, Tls, TlsMode};
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
    /// Whether clients may or must use TLS: disabled, permissive or enforcing.
    #[arg(long, default_value = "permissive")]
    tls_mode: TlsMode,
    /// A certificate chain, PEM; without it one is made at each start.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Load balancers whose PROXY headers are believed: addresses or networks, by commas.
    #[arg(long, value_delimiter = ',')]
    proxy_protocol_from: Vec<Network>,
}

pub(crate) async fn run(arguments: Arguments, stop: CancellationToken) -> anyhow::Result<()> {
    let files = arguments.tls_cert.zip(arguments.tls_key);
    let files = files.map(|(certificate, key)| PemFiles { certificate, key });
    let options = ::namesrv::Options {
        listen: arguments.listen,
        http: arguments.http,
        net: net::Options {
            limits: Limits::default(),
            tls: Tls::open(arguments.tls_mode, files.as_ref()).context("TLS")?,
            proxy_from: arguments.proxy_protocol_from,
        },
        clock: unix_ms,
    };
    Ok(::namesrv::run(options, stop, || {}).await?)
}
