//! SQL92 filters: the table of expressions by Java's own evaluator, and messages by official
//! consumers.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::AsyncWriteExt as _;

use super::messages::{consume, produce};
use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::java::jars::ClassPath;
use crate::lab::{Lab, Target};
use crate::record;

pub fn rows() -> Vec<Row> {
    vec![
        ("the_table_of_expressions", Against::Java, |lab, _| {
            Box::pin(table(lab))
        }),
        (
            "properties_select_messages",
            Against::Both,
            |lab, target| Box::pin(properties_select(lab, target)),
        ),
        (
            "a_bad_expression_is_refused",
            Against::Both,
            |lab, target| Box::pin(refused(lab, target)),
        ),
    ]
}

const TABLE: &str = include_str!("../../../broker/src/filter/sql/table.tsv");
const JAVA_MAX: Duration = Duration::from_mins(1);

/// What the broker's unit test expects is what Java's evaluator says.
async fn table(lab: &mut Lab) -> anyhow::Result<()> {
    let jars = lab.jars().await?;
    let home = lab.fresh_dir("expressions")?;
    let mut command = crate::java::command(&jars.class_path(ClassPath::Server), &home, 64);
    command.arg("dev.gantry.e2e.Expressions");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut java = command.kill_on_drop(true).spawn()?;
    let rows: Vec<&str> = TABLE.lines().filter(|row| !row.starts_with('#')).collect();
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
    ensure!(output.lines().count() == rows.len(), "{output}");
    let differ = rows.iter().zip(output.lines()).filter_map(|(row, java)| {
        let ours = row.rsplit('\t').next();
        (ours != Some(java)).then(|| format!("{row}: Java says {java}"))
    });
    let differ: Vec<String> = differ.collect();
    ensure!(differ.is_empty(), "{}", differ.join("\n"));
    Ok(())
}

/// Every other message is wanted, by a push consumer and by a pull.
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
    let mut wanted = [record::read(&sent)?, record::read(&late)?].concat();
    wanted.retain(|record| {
        let number = record
            .key
            .rsplit('-')
            .next()
            .and_then(|n| n.parse::<u32>().ok());
        number.is_some_and(|number| number.is_multiple_of(2))
    });
    ensure!(wanted.len() == 2 * EACH, "{} are even", wanted.len());
    record::exactly(&wanted, &record::read(&pushed)?)
}

/// By the broker that is asked whether it can serve it, before the consumer has started.
async fn refused(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    // Without a route there is no broker to ask.
    driver
        .ask(produce(&site, "refusing", &sent).with("count", 1))
        .await?;
    let consumer = consume(&site, "refusing", "refused", &pushed).with("sql", "a > 'x'");
    let Err(error) = driver.ask(consumer).await else {
        bail!("a consumer with a bad expression has started");
    };
    let said = format!("{error:#}");
    ensure!(said.contains("CODE: 23"), "{said}");
    if target == Target::Gantry {
        ensure!(said.contains("at character 5"), "{said}");
    }
    Ok(())
}
