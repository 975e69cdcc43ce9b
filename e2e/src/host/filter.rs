//! SQL92 filters: expressions by Java's own evaluator, and messages by official consumers that
//! push, pull and try again.

mod random;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::AsyncWriteExt as _;

use super::messages::{consume, produce};
use super::produce::list;
use super::retry::send_again;
use super::{Against, Row};
use crate::java::driver::{Client, Command, Driver, Thrown};
use crate::java::jars::ClassPath;
use crate::lab::{Addresses, Lab, Target};
use crate::record::{self, Record};

pub fn rows() -> Vec<Row> {
    vec![
        ("the_table_of_expressions", Against::Java, |lab, _| {
            Box::pin(table(lab))
        }),
        (
            "random_expressions_are_true_where_java_says",
            Against::Both,
            |lab, target| Box::pin(random::expressions(lab, target)),
        ),
        (
            "properties_select_messages",
            Against::Both,
            |lab, target| Box::pin(properties_select(lab, target)),
        ),
        (
            "properties_select_what_is_pulled",
            Against::Both,
            |lab, target| Box::pin(pulled(lab, target)),
        ),
        (
            "what_is_tried_again_is_not_filtered_again",
            Against::Both,
            |lab, target| Box::pin(tried_again(lab, target)),
        ),
        (
            "a_bad_expression_is_refused",
            Against::Both,
            |lab, target| Box::pin(refused(lab, target)),
        ),
        (
            "an_expression_beyond_the_limits_is_refused",
            Against::Gantry,
            |lab, _| Box::pin(limits(lab)),
        ),
    ]
}

const TABLE: &str = include_str!("../../../broker/src/filter/sql/table.tsv");

/// What the broker's unit test expects is what Java's evaluator says.
async fn table(lab: &mut Lab) -> anyhow::Result<()> {
    let rows: Vec<&str> = TABLE.lines().filter(|row| !row.starts_with('#')).collect();
    let java = java_says(lab, &rows).await?;
    let differ = rows.iter().zip(&java).filter_map(|(row, java)| {
        let ours = row.rsplit('\t').next();
        (ours != Some(java)).then(|| format!("{row}: Java says {java}"))
    });
    let differ: Vec<String> = differ.collect();
    ensure!(differ.is_empty(), "{}", differ.join("\n"));
    Ok(())
}

/// What becomes of each row by Java's evaluator: an expression, a tab, and a message's properties.
async fn java_says(
    lab: &mut Lab,
    rows: &[impl std::borrow::Borrow<str>],
) -> anyhow::Result<Vec<String>> {
    const JAVA_MAX: Duration = Duration::from_mins(2);
    let jars = lab.jars().await?;
    let home = lab.fresh_dir("expressions")?;
    let mut command = crate::java::command(&jars.class_path(ClassPath::Server), &home, 64);
    command.arg("dev.gantry.e2e.Expressions");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut java = command.kill_on_drop(true).spawn()?;
    let mut stdin = java.stdin.take().context("piped")?;
    let asked = rows.join("\n") + "\n";
    let told = async move {
        stdin.write_all(asked.as_bytes()).await?;
        stdin.shutdown().await
    };
    let answered = tokio::time::timeout(JAVA_MAX, async {
        let (told, output) = tokio::join!(told, java.wait_with_output());
        told?;
        anyhow::Ok(output?)
    });
    let output = String::from_utf8(answered.await??.stdout)?;
    let said: Vec<String> = output.lines().map(str::to_owned).collect();
    ensure!(
        said.len() == rows.len(),
        "{} of {} are answered",
        said.len(),
        rows.len()
    );
    Ok(said)
}

/// Those of numbered messages whose number is wanted.
fn numbered(sent: Vec<Record>, wanted: impl Fn(u32) -> bool) -> Vec<Record> {
    let number = |record: &Record| record.key.rsplit('-').next()?.parse().ok();
    let wanted = sent
        .into_iter()
        .filter(|record| number(record).is_some_and(&wanted));
    wanted.collect()
}

/// Every other message is wanted by a push consumer.
async fn properties_select(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const EACH: usize = 50;
    let site = lab.shared(target).await?;
    let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let late = lab.record_file("late");
    let driver = lab.driver(Client::V5).await?;
    let send = |record, prefix: &str| {
        let command = produce(&site, "selected", record).with("prefix", prefix);
        command.with("count", 2 * EACH).with("numbered", 1)
    };
    driver.ask(send(&sent, "first")).await?;
    let sql = "number BETWEEN 0 AND 1000 AND parity = 'even' AND TAGS IS NOT NULL";
    let consumer = consume(&site, "selected", "selected", &pushed).with("sql", sql);
    driver.ask(consumer).await?;
    let wait = |distinct| {
        Command::new("consume-wait")
            .with("id", "selected")
            .with("distinct", distinct)
    };
    driver.ask(wait(EACH)).await?;
    // These find a pull that waits.
    driver.ask(send(&late, "second")).await?;
    driver.ask(wait(2 * EACH)).await?;
    let stop = Command::new("consume-stop").with("id", "selected");
    driver.ask(stop).await?;
    let sent = [record::read(&sent)?, record::read(&late)?].concat();
    let wanted = numbered(sent, |number| number.is_multiple_of(2));
    ensure!(wanted.len() == 2 * EACH, "{} are even", wanted.len());
    record::exactly(&wanted, &record::read(&pushed)?)
}

/// By consumers that pull themselves, which say with each pull what they want.
async fn pulled(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const MESSAGES: usize = 100;
    let site = lab.shared(target).await?;
    for client in [Client::V5, Client::V4] {
        let topic = format!("select-{client:?}");
        let sent = lab.record_file("sent");
        let send = produce(&site, &topic, &sent).with("numbered", 1);
        let driver = lab.driver(client).await?;
        driver.ask(send.with("count", MESSAGES)).await?;
        let sent = record::read(&sent)?;
        let wanted = numbered(sent, |number| number < 10 || number % 2 == 1);
        ensure!(wanted.len() == 5 + MESSAGES / 2, "{}", wanted.len());
        for how in ["pull", "lite"] {
            let read = lab.record_file(how);
            let sql = "number < 10 OR NOT (parity CONTAINS 'even')";
            let select = select(&site, &topic, how, sql).with("record", read.display());
            let driver = lab.driver(client).await?;
            driver.ask(select.with("count", wanted.len())).await?;
            record::exactly(&wanted, &record::read(&read)?)
                .with_context(|| format!("{client:?} {how}"))?;
        }
    }
    Ok(())
}

fn select(site: &Addresses, topic: &str, how: &str, sql: &str) -> Command {
    Command::new("select")
        .with("how", how)
        .with("namesrv", site.name_server)
        .with("topic", topic)
        .with("group", format!("{topic}-{how}"))
        .with("sql", sql)
}

/// A consumer subscribes to its retry topic by tags, and wants all of it: also what a consumer
/// with another condition has sent there.
async fn tried_again(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let mut started = Vec::new();
    // A client may learn of its retry topic only after half a minute: both at once.
    for client in [Client::V5, Client::V4] {
        let topic = format!("sql-again-{client:?}");
        let sent = lab.record_file("sent");
        let driver = lab.driver(client).await?;
        // One even, one odd.
        let send = produce(&site, &topic, &sent).with("numbered", 1);
        driver.ask(send.with("count", 2)).await?;
        let start = Command::new("retry-start")
            .with("id", &topic)
            .with("namesrv", site.name_server)
            .with("topic", &topic)
            .with("group", format!("{topic}-group"))
            .with("sql", "parity = 'even'")
            .with("failures", 2)
            .with("level", 1);
        driver.ask(start).await?;
        let even = numbered(record::read(&sent)?, |number| number == 0);
        let even = even.into_iter().next().context("one is even")?;
        started.push((client, topic, even.id));
    }
    for (client, topic, even) in &started {
        let driver = lab.driver(*client).await?;
        let of = |verb| Command::new(verb).with("id", topic);
        driver.ask(of("retry-wait").with("deliveries", 3)).await?;
        let odd = format!(
            "KEYS\u{1}odd\u{2}UNIQ_KEY\u{1}odd\u{2}parity\u{1}odd\u{2}\
             RETRY_TOPIC\u{1}{topic}\u{2}DELAY\u{1}1\u{2}"
        );
        send_again(&site, &format!("{topic}-group"), "1", &odd).await?;
        driver.ask(of("retry-wait").with("deliveries", 4)).await?;
        let seen = driver.ask(of("retry-stop")).await?;
        ensure!(seen.text("times")? == "0,1,2,1", "{seen:?}");
        let topics = list(&seen, "topics")?;
        ensure!(topics.iter().all(|name| name == topic), "{seen:?}");
        ensure!(
            list(&seen, "ids")? == [even.as_str(), even, even, "odd"],
            "{seen:?}"
        );
    }
    Ok(())
}

/// What consumers are told by the broker that they ask whether it can serve them before they have
/// started.
async fn starts(
    driver: &mut Driver,
    site: &Addresses,
    topic: &str,
    sql: &str,
    record: &Path,
) -> anyhow::Result<Vec<Option<Thrown>>> {
    let push = consume(site, topic, "push", record).with("sql", sql);
    let pushed = driver.attempt(push).await?;
    if pushed.is_ok() {
        let stop = Command::new("consume-stop").with("id", "push");
        driver.ask(stop).await?;
    }
    let lite = select(site, topic, "lite", sql).with("record", record.display());
    Ok(vec![pushed.err(), driver.attempt(lite).await?.err()])
}

/// The same, and what a pull is told. Java serves all messages to a pull with a bad expression.
async fn attempts(
    driver: &mut Driver,
    site: &Addresses,
    topic: &str,
    sql: &str,
    record: &Path,
) -> anyhow::Result<Vec<Option<Thrown>>> {
    let mut told = starts(driver, site, topic, sql, record).await?;
    let pull = select(site, topic, "pull", sql).with("record", record.display());
    told.push(driver.attempt(pull).await?.err());
    Ok(told)
}

const PARSE_FAILED: i32 = 23;

/// When the consumer starts, or at the first pull.
async fn refused(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let (sent, record) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    // Without a route there is no broker to ask.
    driver
        .ask(produce(&site, "refusing", &sent).with("count", 1))
        .await?;
    let rows = [
        ("a > 'x'", "only numbers have an order at character 5 "),
        ("(a = 1", "no ) at character 7 "),
        ("a = 1 AND b IN (1)", "no 'text' at character 17 "),
        (
            "a = NULL",
            "NULL can't be compared; IS NULL can be asked at character 5 ",
        ),
    ];
    for (sql, why) in rows {
        let told = match target {
            Target::Java => starts(driver, &site, "refusing", sql, &record).await?,
            Target::Gantry => attempts(driver, &site, "refusing", sql, &record).await?,
        };
        for thrown in told {
            let thrown = thrown.with_context(|| format!("{sql} is served"))?;
            let said = target == Target::Java || thrown.message.contains(why);
            ensure!(thrown.code == PARSE_FAILED && said, "{sql}: {thrown}");
        }
    }
    Ok(())
}

/// Java has none.
async fn limits(lab: &mut Lab) -> anyhow::Result<()> {
    let site = lab.shared(Target::Gantry).await?;
    let (sent, record) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    driver
        .ask(produce(&site, "limiting", &sent).with("count", 1))
        .await?;
    let deep = |parts| format!("{}a = 1{}", "(".repeat(parts), ")".repeat(parts));
    let long = |bytes| format!("a = '{}'", "x".repeat(bytes - "a = ''".len()));
    let rows = [
        (deep(31), None),
        (
            deep(32),
            Some("more than 32 parts within each other at character 33 "),
        ),
        (format!("{}a", "NOT ".repeat(31)), None),
        (
            format!("{}a", "NOT ".repeat(32)),
            Some("more than 32 parts within each other at character 129 "),
        ),
        (long(4096), None),
        (long(4097), Some("more than 4096 bytes at character 4097 ")),
    ];
    for (sql, why) in &rows {
        for thrown in attempts(driver, &site, "limiting", sql, &record).await? {
            match (&thrown, why) {
                (None, None) => {}
                (Some(thrown), Some(why)) => {
                    let told = thrown.code == PARSE_FAILED && thrown.message.contains(why);
                    ensure!(told, "{sql}: {thrown}");
                }
                other => bail!("{sql}: {other:?}"),
            }
        }
    }
    Ok(())
}
