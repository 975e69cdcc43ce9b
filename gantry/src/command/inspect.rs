//! `gantry store inspect` and `gantry store verify`. Both open the directory as a broker would,
//! which also recovers it after an unclean end, and leave it clean.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use protocol::record::Record;
use serde_json::json;
use store::{Identity, ReadLimits, ReadStatus, Store, Wait};

use super::unix_ms;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The broker's data directory.
    dir: PathBuf,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

fn open(dir: &Path) -> anyhow::Result<(Store, Identity)> {
    let identity =
        Identity::load(dir)?.with_context(|| format!("{} holds no Gantry store", dir.display()))?;
    let host = ([127, 0, 0, 1], 10_911).into();
    let options = store::Options::new(&identity.cluster, &identity.broker, host, unix_ms);
    Ok((Store::open(dir, options, Box::new(|_, _| {}))?, identity))
}

pub(crate) fn inspect(arguments: &Arguments) -> anyhow::Result<()> {
    let (store, identity) = open(&arguments.dir)?;
    let status = store.status();
    let queues = store.queues();
    let messages: i64 = queues.iter().map(|(.., range)| range.max - range.min).sum();
    store.close();
    let found = json!({
        "cluster": identity.cluster,
        "broker": identity.broker,
        "epoch": status.epoch,
        "segmentBytes": status.segment_bytes,
        "logStart": status.log_start,
        "logEnd": status.confirm,
        "queues": queues.len(),
        "messages": messages,
        "cuts": status.cuts,
    });
    output::object(arguments.output, &found)
}

pub(crate) fn verify(arguments: &Arguments) -> anyhow::Result<()> {
    let (store, _) = open(&arguments.dir)?;
    let limits = ReadLimits {
        messages_max: 1_024,
        bytes_max: 4 << 20,
        scan_max: 1_024,
    };
    let (mut messages, mut bytes, mut damaged) = (0_u64, 0_u64, Vec::new());
    let queues = store.queues();
    for (topic, queue, range) in &queues {
        let mut from = range.min;
        while from < range.max {
            let read = store.read(topic, *queue, from, &limits, &mut |_| true, Wait::ForDisk);
            let read = match read {
                Ok(read) if read.status == ReadStatus::Found => read,
                Ok(read) => {
                    damaged.push(format!("{topic}/{queue} at {from}: {:?}", read.status));
                    break;
                }
                Err(error) => {
                    damaged.push(format!("{topic}/{queue} at {from}: {error}"));
                    from += 1;
                    continue;
                }
            };
            for record in &read.records {
                let record = Record::decode(record)?;
                messages += 1;
                bytes += record.body.len() as u64;
            }
            from = read.next;
        }
    }
    store.close();
    let found = json!({
        "queues": queues.len(),
        "messages": messages,
        "bodyBytes": bytes,
        "damaged": damaged,
    });
    output::object(arguments.output, &found)?;
    if !damaged.is_empty() {
        bail!("{} places are damaged", damaged.len());
    }
    Ok(())
}
