//! What a producer was told and what a consumer got, as the Java programs record it
//! (`Record.java`),
//! and the comparisons that the tests are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

/// One message, acknowledged or received.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub place: Place,
    pub key: String,
    pub tag: String,
    pub body_bytes: u64,
    pub body_crc: u32,
    pub id: String,
    pub offset_id: String,
}

/// Where a message lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub broker: String,
    pub queue: u32,
    pub offset: i64,
}

pub fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines().map(parse).collect()
}

fn parse(line: &str) -> anyhow::Result<Record> {
    let parts: Vec<&str> = line.split('\t').collect();
    let &[broker, queue, offset, key, tag, bytes, crc, id, offset_id] = parts.as_slice() else {
        bail!("not a record: {line}");
    };
    Ok(Record {
        place: Place {
            broker: broker.to_owned(),
            queue: queue.parse()?,
            offset: offset.parse()?,
        },
        key: key.to_owned(),
        tag: tag.to_owned(),
        body_bytes: bytes.parse()?,
        body_crc: crc.parse()?,
        id: id.to_owned(),
        offset_id: offset_id.to_owned(),
    })
}

/// Received is exactly what was acknowledged: same messages, same places, nothing twice.
pub fn exactly(sent: &[Record], received: &[Record]) -> anyhow::Result<()> {
    ensure!(
        sent.len() == received.len(),
        "{} acknowledged, {} received",
        sent.len(),
        received.len()
    );
    every_one(sent, received)?;
    let sent: BTreeSet<&Record> = sent.iter().collect();
    let unexpected: Vec<_> = received.iter().filter(|r| !sent.contains(r)).collect();
    ensure!(
        unexpected.is_empty(),
        "never acknowledged: {}",
        some(&unexpected)
    );
    Ok(())
}

/// Every acknowledged message is among the received ones, just as it was acknowledged. Others may
/// be there too: stored, but the answer was lost.
pub fn every_one(sent: &[Record], received: &[Record]) -> anyhow::Result<()> {
    let received: BTreeSet<&Record> = received.iter().collect();
    let missing: Vec<_> = sent.iter().filter(|r| !received.contains(r)).collect();
    ensure!(
        missing.is_empty(),
        "{} of {} acknowledged messages not received: {}",
        missing.len(),
        sent.len(),
        some(&missing)
    );
    Ok(())
}

/// No two records at one place, and from the first to the last of a queue no place is empty.
pub fn without_gaps(records: &[Record]) -> anyhow::Result<()> {
    let mut queues: BTreeMap<(&str, u32), BTreeMap<i64, &Record>> = BTreeMap::new();
    for record in records {
        let queue = queues
            .entry((&record.place.broker, record.place.queue))
            .or_default();
        if let Some(other) = queue.insert(record.place.offset, record) {
            bail!("two messages at one place: {other:?} and {record:?}");
        }
    }
    for ((broker, queue), offsets) in queues {
        let (first, last) = (offsets.keys().next(), offsets.keys().next_back());
        let (Some(first), Some(last)) = (first, last) else {
            continue;
        };
        ensure!(
            last - first + 1 == offsets.len() as i64,
            "{broker}/{queue} has {} messages between {first} and {last}",
            offsets.len()
        );
    }
    Ok(())
}

/// How many queues have messages.
pub fn queues(records: &[Record]) -> usize {
    let queues: BTreeSet<_> = records
        .iter()
        .map(|r| (&r.place.broker, r.place.queue))
        .collect();
    queues.len()
}

fn some(records: &[&Record]) -> String {
    let some: Vec<String> = records.iter().take(5).map(|r| format!("{r:?}")).collect();
    some.join(", ")
}
