//! A broker on a volume of its own that gets full: it refuses messages with a code on which
//! clients try again and a text that says why, goes on with all else, and takes messages again by
//! itself once there is room.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

use super::messages::produce;
use super::{Against, Row};
use crate::java::driver::Client;
use crate::lab::{Addresses, BrokerPlan, Lab, Target};
use crate::process::run_ok;
use crate::raw::{self, Answer, Connection};
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![(
        "a_full_disk_refuses_messages_until_there_is_room",
        Against::Gantry,
        |lab, _| Box::pin(full(lab)),
    )]
}

const VOLUME_BYTES: usize = 32 << 20;
const SEGMENT_BYTES: u64 = 1 << 20;
const BODY_BYTES: usize = 100_000;
const RESUME_MAX: Duration = Duration::from_secs(5);
const TOPIC: &str = "disk-full";
const SERVICE_NOT_AVAILABLE: i64 = 14;
const SEND_MESSAGE_V2: i32 = 310;
const PULL_MESSAGE: i32 = 11;
const QUERY_CONSUMER_OFFSET: i32 = 14;
const UPDATE_CONSUMER_OFFSET: i32 = 15;
const UPDATE_GROUP: i32 = 200;

async fn full(lab: &mut Lab) -> anyhow::Result<()> {
    let name_server = lab.name_server(Target::Gantry).await?;
    let mut plan = lab.plan("disk-full", &[name_server.address])?;
    plan.segment_bytes = SEGMENT_BYTES;
    plan.flush_sync = true;
    let volume = Volume::mount(plan.store()).await?;
    // What somebody else keeps on the volume, and takes away in the end.
    volume.fill("others", VOLUME_BYTES / 2)?;
    let mut broker = lab.broker(Target::Gantry, &plan).await?;
    let group = br#"{"groupName":"disk-full","consumeEnable":true}"#;
    let created = call(&plan, UPDATE_GROUP, &[], group).await?;
    ensure!(created.code == 0, "{} {}", created.code, created.remark);

    let (stored, refusal) = send_until_refused(&plan).await?;
    ensure!(
        stored > 20,
        "only {stored} messages before: {}",
        refusal.remark
    );
    refused_for_room(&refusal)?;
    goes_on(&plan, 7).await?;
    // Now without any room at all: what has to be written comes out of the reserve.
    volume.fill("more", VOLUME_BYTES)?;
    // All in the first file, which else would be deleted as consumed.
    for n in 0..20 {
        goes_on(&plan, n % 8).await?;
    }
    refused_for_room(&send(&plan).await?)?;
    // Two ticks: the offsets are in the log when the broker is killed.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    broker.kill().await?;
    broker = lab.broker(Target::Gantry, &plan).await?;
    ensure!(
        offset(&plan).await? == 3,
        "committed offsets survive a kill on a full disk"
    );
    refused_for_room(&send(&plan).await?)?;

    volume.remove("more")?;
    volume.remove("others")?;
    let freed = Instant::now();
    let addresses = Addresses {
        name_server: name_server.address,
        name_server_http: name_server.http,
        broker: plan.remoting(),
        broker_http: plan.http(),
    };
    let resumed = until("messages are taken again", RESUME_MAX, async || {
        let answer = send(&plan).await?;
        ensure!(answer.code == 0, "{} {}", answer.code, answer.remark);
        Ok(freed.elapsed())
    });
    println!("\n    {stored} messages, then: {}", refusal.remark);
    println!("    taken again after {:?}", resumed.await?);
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    let produced = driver
        .ask(produce(&addresses, TOPIC, &sent).with("count", 100))
        .await?;
    ensure!(
        produced.number("failures")? == 0,
        "{}",
        produced.text("firstFailure")?
    );
    broker.kill().await
}

/// The Java client tries again on 14; the text says how full it is.
fn refused_for_room(answer: &Answer) -> anyhow::Result<()> {
    ensure!(
        answer.code == SERVICE_NOT_AVAILABLE && answer.remark.contains("% of the disk is used"),
        "{} {}",
        answer.code,
        answer.remark
    );
    Ok(())
}

async fn send_until_refused(plan: &BrokerPlan) -> anyhow::Result<(usize, Answer)> {
    for stored in 0..2 * VOLUME_BYTES / BODY_BYTES {
        let answer = send(plan).await?;
        if answer.code != 0 {
            return Ok((stored, answer));
        }
    }
    bail!("the volume takes more than it holds")
}

/// Pulls and commits are answered as ever.
async fn goes_on(plan: &BrokerPlan, committed: i64) -> anyhow::Result<()> {
    let pull = [
        ("consumerGroup", TOPIC),
        ("topic", TOPIC),
        ("queueId", "0"),
        ("queueOffset", "3"),
        ("maxMsgNums", "1"),
        ("sysFlag", "4"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "0"),
        ("subscription", "*"),
        ("subVersion", "0"),
        ("expressionType", "TAG"),
    ];
    let pulled = call(plan, PULL_MESSAGE, &pull, b"").await?;
    ensure!(
        pulled.code == 0 && pulled.body.len() > BODY_BYTES,
        "a pull: {} {}",
        pulled.code,
        pulled.remark
    );
    let text = committed.to_string();
    let commit = [
        ("consumerGroup", TOPIC),
        ("topic", TOPIC),
        ("queueId", "0"),
        ("commitOffset", &text),
    ];
    let updated = call(plan, UPDATE_CONSUMER_OFFSET, &commit, b"").await?;
    ensure!(
        updated.code == 0,
        "a commit: {} {}",
        updated.code,
        updated.remark
    );
    ensure!(
        offset(plan).await? == committed,
        "the offset is not {committed}"
    );
    Ok(())
}

async fn offset(plan: &BrokerPlan) -> anyhow::Result<i64> {
    let of = [("consumerGroup", TOPIC), ("topic", TOPIC), ("queueId", "0")];
    let answer = call(plan, QUERY_CONSUMER_OFFSET, &of, b"").await?;
    Ok(answer.field("offset").context("an offset")?.parse()?)
}

async fn send(plan: &BrokerPlan) -> anyhow::Result<Answer> {
    let fields = [
        ("a", TOPIC),
        ("b", TOPIC),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", ""),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
    ];
    call(plan, SEND_MESSAGE_V2, &fields, &vec![b'x'; BODY_BYTES]).await
}

async fn call(
    plan: &BrokerPlan,
    code: i32,
    fields: &[(&str, &str)],
    body: &[u8],
) -> anyhow::Result<Answer> {
    let request = raw::json_request(code, 5, fields, body);
    Connection::open(plan.remoting())
        .await?
        .call(&request)
        .await
}

/// A file system in memory, which is gone with this.
struct Volume(PathBuf);

impl Volume {
    async fn mount(dir: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={VOLUME_BYTES}"),
            "gantry-e2e",
        ]);
        mount.arg(&dir);
        run_ok(mount, Duration::from_secs(10)).await?;
        Ok(Self(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file of so many bytes, or of what there is room for.
    fn fill(&self, name: &str, bytes: usize) -> anyhow::Result<()> {
        match std::fs::write(self.path(name), vec![1; bytes]) {
            Err(error) if error.kind() != std::io::ErrorKind::StorageFull => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.path(name))?)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Also while a process still has it open.
        let umount = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
        if !umount.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}
