//! `gantry crds`

use std::io::Write as _;

pub(crate) fn run() -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(::crds::render::all_yaml().as_bytes())?)
}
