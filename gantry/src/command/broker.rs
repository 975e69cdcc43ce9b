//! `gantry broker`

use std::path::PathBuf;

use broker::Config;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration, YAML.
    #[arg(long)]
    config: PathBuf,
}

pub(crate) async fn run(arguments: Arguments, stop: CancellationToken) -> anyhow::Result<()> {
    let config = Config::read(&arguments.config)?;
    Ok(::broker::run(config, stop, || {}).await?)
}
