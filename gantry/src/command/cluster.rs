//! `gantry cluster`

use serde_json::json;

use super::unix_ms;
use crate::admin::{Common, runtime};
use crate::output;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Every broker: what it does and how full its disk is.
    Status {
        #[command(flatten)]
        common: Common,
    },
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Status { common } = command;
    let mut rows = Vec::new();
    for (name, broker) in common.clusters().await?.broker_addr_table {
        for (id, address) in &broker.broker_addrs {
            let table = runtime(address).await?;
            let text = |key: &str| table.get(key).map_or("", String::as_str);
            // The first of three numbers: over the last ten seconds.
            let rate = |key| text(key).split(' ').next()?.parse::<f64>().ok();
            let used = text("commitLogDiskRatio").parse::<f64>().ok();
            let first_ms = text("earliestMessageTimeStamp").parse::<i64>().ok();
            let kept_ms = first_ms.filter(|ms| *ms > 0).map(|ms| unix_ms() - ms);
            rows.push(json!({
                "cluster": broker.cluster,
                "broker": name,
                "id": id,
                "address": address,
                "version": text("brokerVersionDesc"),
                "active": text("brokerActive") == "true",
                "inTps": rate("putTps").map(rounded),
                "outTps": rate("getTransferredTps").map(rounded),
                "diskUsedPercent": used.map(|used| rounded(used * 100.0)),
                "keptHours": kept_ms.map(|ms| rounded(ms as f64 / 3_600_000.0)),
            }));
        }
    }
    let columns = [
        "cluster",
        "broker",
        "id",
        "address",
        "version",
        "active",
        "inTps",
        "outTps",
        "diskUsedPercent",
        "keptHours",
    ];
    output::rows(common.output, &columns, &rows)
}

/// To one digit behind the point.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
