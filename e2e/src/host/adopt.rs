//! A Java broker's directory, with everything in it that Java's own files are needed for, becomes
//! Gantry's and goes back: what the client reads stays the same, message by message.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::crash::addresses;
use super::messages::{consume, produce};
use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::lab::{Lab, Site, Target};
use crate::raw::{self, Connection};
use crate::record;
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        ("a_java_directory_is_adopted", Against::Gantry, |lab, _| {
            Box::pin(adopted(lab))
        }),
        (
            "c1_an_exported_directory_serves_java_and_comes_back",
            Against::Gantry,
            |lab, _| Box::pin(there_and_back(lab)),
        ),
    ]
}

/// Small, so that there are more than ten files.
const SEGMENT_BYTES: u64 = 256 << 10;
/// Deletes expired files at any hour, and looks for them every second.
const EXPIRE_AT_ONCE: &str = "deleteWhen=00;01;02;03;04;05;06;07;08;09;10;11;12;13;14;15;16;17;\
    18;19;20;21;22;23\ncleanResourceInterval=1000\n";
const EXPIRED_FILES: u64 = 4;
/// Java writes consumer offsets every 5 s and those of delay levels every 10 s; a failed message
/// is 10 s on its way to the retry topic.
const SETTLED: Duration = Duration::from_secs(22);
/// Java corrects the least offsets of its queues a moment after it has deleted files.
const CORRECTED: Duration = Duration::from_secs(3);
const LEVELS: usize = 18;
/// Under Java its deleted messages come back while the log's first file is there.
const MADE_AGAIN: &str = "again";
const TOPICS: [&str; 9] = [
    "idle",
    "again",
    "bulk",
    "batch",
    "fails",
    "SCHEDULE_TOPIC_XXXX",
    "%RETRY%fails-retried",
    "%DLQ%fails-dead",
    "%RETRY%",
];

type Dumps = BTreeMap<String, String>;

async fn adopted(lab: &mut Lab) -> anyhow::Result<()> {
    let mut site = site(lab, Target::Java).await?;
    fill(lab, &site).await?;
    let filled = Instant::now();
    expire(&site).await?;
    let settled = SETTLED.saturating_sub(filled.elapsed());
    tokio::time::sleep(settled.max(CORRECTED)).await;
    // A machine may be slow: what is read must be what is killed.
    let (before, committed) = loop {
        tokio::time::sleep(unsettled(filled.elapsed())).await;
        let before = dump(lab, &site).await.context("before")?;
        let committed = committed(lab, &site).await?;
        if unsettled(filled.elapsed()).is_zero() {
            break (before, committed);
        }
    };
    site.broker.kill().await?;
    adopt(lab, &site).await?;
    site.broker = lab.broker(Target::Gantry, &site.plan).await?;
    same(&before, &dump(lab, &site).await?).context("under Gantry")?;
    let now = self::committed(lab, &site).await?;
    ensure!(committed == now, "committed {committed}, then {now}");
    group_goes_on(lab, &site).await?;
    delivered_once(lab, &site).await
}

/// How long it takes until Java, killed now, would not deliver a level of delay twice: it has
/// written down what was due, and nothing is due in this moment.
fn unsettled(since_filled: Duration) -> Duration {
    const DUE_SECONDS: [u64; 4] = [30, 60, 120, 180];
    const WRITTEN: Duration = Duration::from_secs(12);
    const MOMENT: Duration = Duration::from_secs(2);
    let due = DUE_SECONDS.map(Duration::from_secs);
    let unwritten = due
        .into_iter()
        .find(|due| *due < since_filled + MOMENT && since_filled < *due + WRITTEN);
    unwritten.map_or(Duration::ZERO, |due| {
        (due + WRITTEN).saturating_sub(since_filled)
    })
}

async fn there_and_back(lab: &mut Lab) -> anyhow::Result<()> {
    let mut site = site(lab, Target::Gantry).await?;
    fill(lab, &site).await?;
    tokio::time::sleep(SETTLED).await;
    let before = dump(lab, &site).await.context("before")?;
    site.broker.signal(Signal::TERM);
    site.broker.ended(Duration::from_secs(10)).await?;
    let store = site.plan.store().display().to_string();
    let output = lab.gantry()?.run(&["store", "export-java", &store]).await?;
    ensure!(output.status.success(), "export-java: {}", output.stderr);
    site.broker = lab.broker(Target::Java, &site.plan).await?;
    same(&before, &dump(lab, &site).await?).context("under Java")?;
    found_by_key(lab, &site).await?;
    group_goes_on(lab, &site).await?;
    delivered_once(lab, &site).await?;
    let mut at_java = dump(lab, &site).await?;
    let again = before.get(MADE_AGAIN).context("a dump")?;
    at_java.insert(MADE_AGAIN.to_owned(), again.clone());
    site.broker.signal(Signal::TERM);
    site.broker.ended(Duration::from_mins(1)).await?;
    let mut refused = lab.gantry()?.spawn_broker(&site.plan)?;
    let (status, _) = refused.ended(Duration::from_secs(10)).await?;
    let said = refused.output();
    ensure!(
        !status.success() && said.contains("adopt it first"),
        "{said}"
    );
    adopt(lab, &site).await?;
    site.broker = lab.broker(Target::Gantry, &site.plan).await?;
    let last = dump(lab, &site).await?;
    same(&at_java, &last).context("under Gantry again")?;
    ensure!(
        last.get(MADE_AGAIN) == Some(again),
        "deleted messages came back"
    );
    Ok(())
}

async fn site(lab: &mut Lab, target: Target) -> anyhow::Result<Site> {
    let name_server = lab.name_server(Target::Java).await?;
    let mut plan = lab.plan("adopt", &[name_server.address])?;
    plan.segment_bytes = SEGMENT_BYTES;
    EXPIRE_AT_ONCE.clone_into(&mut plan.extra_properties);
    let broker = lab.broker(target, &plan).await?;
    Ok(Site {
        name_server,
        broker,
        plan,
    })
}

/// Everything that a directory can hold.
async fn fill(lab: &mut Lab, site: &Site) -> anyhow::Result<()> {
    let addresses = addresses(site);
    let (first, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    driver
        .ask(produce(&addresses, "idle", &first).with("count", 40))
        .await?;
    driver
        .ask(consume(&addresses, "idle", "group", &pushed))
        .await?;
    driver
        .ask(
            Command::new("consume-wait")
                .with("id", "group")
                .with("distinct", 40),
        )
        .await?;
    driver
        .ask(Command::new("consume-stop").with("id", "group"))
        .await?;
    let fill = |topic: &str, count: usize| {
        Command::new("fill")
            .with("namesrv", addresses.name_server)
            .with("topic", topic)
            .with("prefix", topic)
            .with("count", count)
            .with("tags", "TagA,TagB")
            .with("bodyBytes", 1_000)
    };
    driver.ask(fill("again", 60)).await?;
    driver.ask(fill("bulk", 1_600).with("batch", 16)).await?;
    admin(site, 215, &[("topic", "again")]).await?;
    let topic = [
        ("topic", "again"),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", "4"),
        ("writeQueueNums", "4"),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("topicSysFlag", "0"),
        ("order", "false"),
    ];
    admin(site, 17, &topic).await?;
    driver.ask(fill("again", 30)).await?;
    driver.ask(fill("bulk", 1_600).with("batch", 16)).await?;
    driver.ask(fill("batch", 64).with("batch", 16)).await?;
    // The longest that the client allows.
    let long = format!("retried-{}", "g".repeat(112));
    driver.ask(fill("fails", 8)).await?;
    for (group, times) in [("fails-retried", 16), ("fails-dead", 0), (&*long, 16)] {
        let fail = Command::new("fail")
            .with("namesrv", addresses.name_server)
            .with("topic", "fails")
            .with("group", group)
            .with("maxReconsumeTimes", times)
            .with("count", 8);
        let all = driver.ask(fail).await?;
        ensure!(all.text("all")? == "true", "{group} saw not all messages");
    }
    driver
        .ask(fill("later", LEVELS).with("levels", LEVELS))
        .await?;
    Ok(())
}

/// A call of the admin protocol to the broker.
async fn admin(site: &Site, code: i32, fields: &[(&str, &str)]) -> anyhow::Result<()> {
    let request = raw::json_request(code, 1, fields, b"");
    let answer = Connection::open(site.plan.remoting())
        .await?
        .call(&request)
        .await?;
    ensure!(answer.code == 0, "code {}: {}", answer.code, answer.remark);
    Ok(())
}

/// Makes the oldest files of the log old, and waits until the broker has deleted them.
async fn expire(site: &Site) -> anyhow::Result<()> {
    const EXPIRE_SECONDS_MAX: u64 = 60;
    let old = SystemTime::now() - Duration::from_hours(100);
    let path = |n: u64| {
        site.plan
            .store()
            .join(format!("commitlog/{:020}", n * SEGMENT_BYTES))
    };
    for n in 0..EXPIRED_FILES {
        std::fs::File::options()
            .write(true)
            .open(path(n))?
            .set_modified(old)?;
    }
    let limit = Duration::from_secs(EXPIRE_SECONDS_MAX);
    until("the oldest files are deleted", limit, async || {
        let left = (0..EXPIRED_FILES).filter(|n| path(*n).exists()).count();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await
}

async fn adopt(lab: &mut Lab, site: &Site) -> anyhow::Result<()> {
    let store = site.plan.store().display().to_string();
    let (cluster, broker) = (&*site.plan.cluster, &*site.plan.name);
    let arguments = [
        "store",
        "adopt",
        &store,
        "--cluster",
        cluster,
        "--broker",
        broker,
    ];
    let output = lab.gantry()?.run(&arguments).await?;
    ensure!(
        output.status.success(),
        "adopt: {} {}",
        output.stdout,
        output.stderr
    );
    Ok(())
}

/// Java indexes nothing that it finds in a log.
async fn found_by_key(lab: &mut Lab, site: &Site) -> anyhow::Result<()> {
    let query = Command::new("query")
        .with("namesrv", site.name_server.address)
        .with("topic", "bulk")
        .with("key", "other-1599");
    let answer = lab.driver(Client::V5).await?.ask(query).await?;
    let found = answer.number("found")?;
    ensure!(found == 2, "{found} messages by their key, not 2");
    Ok(())
}

/// What was due long before is not delivered again, and what is due by now is.
async fn delivered_once(lab: &mut Lab, site: &Site) -> anyhow::Result<()> {
    const DUE: usize = 4;
    const DUE_SECONDS_MAX: u64 = 60;
    let file = lab.record_file("dump");
    let ask = Command::new("dump")
        .with("namesrv", site.name_server.address)
        .with("topic", "later")
        .with("record", file.display());
    let driver = lab.driver(Client::V5).await?;
    let limit = Duration::from_secs(DUE_SECONDS_MAX);
    until("delayed messages are delivered", limit, async || {
        let messages = driver.ask(ask.clone()).await?.number("messages")?;
        ensure!(messages >= DUE as i64, "{messages} of {DUE}");
        Ok(())
    })
    .await?;
    let text = std::fs::read_to_string(&file)?;
    for n in 0..LEVELS {
        let key = format!("KEYS=later-{n} ");
        let times = text.matches(&key).count();
        ensure!(
            times <= 1 && (times == 1 || n >= DUE),
            "level {}: {times} times",
            n + 1
        );
    }
    Ok(())
}

/// The group of the idle topic gets what is sent now, and nothing that it had before.
async fn group_goes_on(lab: &mut Lab, site: &Site) -> anyhow::Result<()> {
    let addresses = addresses(site);
    let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    let next = produce(&addresses, "idle", &sent)
        .with("count", 12)
        .with("prefix", "next");
    driver.ask(next).await?;
    driver
        .ask(consume(&addresses, "idle", "group", &pushed))
        .await?;
    driver
        .ask(
            Command::new("consume-wait")
                .with("id", "group")
                .with("distinct", 12),
        )
        .await?;
    driver
        .ask(Command::new("consume-stop").with("id", "group"))
        .await?;
    record::exactly(&record::read(&sent)?, &record::read(&pushed)?)
}

async fn committed(lab: &mut Lab, site: &Site) -> anyhow::Result<String> {
    let ask = Command::new("committed")
        .with("namesrv", site.name_server.address)
        .with("topic", "idle")
        .with("group", "idle-group");
    let answer = lab.driver(Client::V5).await?.ask(ask).await?;
    Ok(answer.text("offsets")?.to_owned())
}

/// All that the client reads, by topic.
async fn dump(lab: &mut Lab, site: &Site) -> anyhow::Result<Dumps> {
    let mut dumps = Dumps::new();
    for topic in TOPICS {
        let topic = match topic {
            "%RETRY%" => format!("%RETRY%retried-{}", "g".repeat(112)),
            topic => topic.to_owned(),
        };
        let file = lab.record_file("dump");
        let ask = Command::new("dump")
            .with("namesrv", site.name_server.address)
            .with("topic", &topic)
            .with("record", file.display());
        lab.driver(Client::V5)
            .await?
            .ask(ask)
            .await
            .context(topic.clone())?;
        dumps.insert(topic, std::fs::read_to_string(&file)?);
    }
    Ok(dumps)
}

fn same(wanted: &Dumps, found: &Dumps) -> anyhow::Result<()> {
    for (topic, wanted) in wanted {
        let found = found.get(topic).context("a dump")?;
        ensure!(!wanted.is_empty(), "{topic} has no message to compare");
        if topic == MADE_AGAIN {
            let mut messages = wanted.lines().filter(|line| !line.starts_with("queue "));
            let missing = messages.find(|line| !found.contains(*line));
            ensure!(missing.is_none(), "{topic}: {missing:?}");
            continue;
        }
        for (wanted, found) in wanted.lines().zip(found.lines()) {
            ensure!(wanted == found, "{topic}:\n{wanted}\n{found}");
        }
        let (wanted, found) = (wanted.lines().count(), found.lines().count());
        ensure!(wanted == found, "{topic}: {wanted} lines, then {found}");
    }
    Ok(())
}
