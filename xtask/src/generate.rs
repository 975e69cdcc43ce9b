//! Writes the files that are generated and committed: the custom resource definitions, and
//! their copy in the chart. The same tests that write them fail when they are stale.

use anyhow::Result;

use crate::place::{Place, TARGET};
use crate::process::{self, cargo};

pub(crate) fn run(place: &Place) -> Result<()> {
    let mut cargo = cargo(place, ["test", "--workspace", "--test", "files"]);
    process::run(cargo.args(["--target", TARGET]).env("UPDATE_GOLDEN", "1"))
}
