//! Consumption by pop: official push consumers in pop mode, and receipts as the official client
//! makes them, from Gantry as from the Java broker.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::json;

use super::crash::addresses;
use super::messages::produce;
use super::produce::list;
use super::{Against, Row};
use crate::java::driver::{Answer, Client, Command, Driver};
use crate::java::jars::ClassPath;
use crate::lab::{Addresses, Lab, Target};
use crate::raw::{self, Connection};
use crate::record;
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "a_pop_consumer_gets_each_message_once",
            Against::Both,
            |lab, target| Box::pin(once(lab, target)),
        ),
        (
            "a_popped_message_that_is_not_acknowledged_comes_again",
            Against::Both,
            |lab, target| Box::pin(overslept(lab, target)),
        ),
        (
            "a_popped_message_that_failed_comes_again_later",
            Against::Both,
            |lab, target| Box::pin(failed(lab, target)),
        ),
        (
            "receipts_acknowledge_and_change_the_time",
            Against::Both,
            |lab, target| Box::pin(receipts(lab, target)),
        ),
        (
            "a_queue_is_popped_in_order",
            Against::Both,
            |lab, target| Box::pin(in_order(lab, target)),
        ),
        (
            "popped_messages_survive_sigkill",
            Against::Gantry,
            |lab, target| Box::pin(killed(lab, target)),
        ),
    ]
}

const FOUND: &str = "FOUND";
const NOTHING: &str = "POLLING_NOT_FOUND";

/// The JVM that pops, and what its calls name.
struct Popping {
    driver: Driver,
    site: Addresses,
    broker: String,
    topic: &'static str,
}

impl Popping {
    /// With messages in a topic that is named as the test is; their keys end with their numbers.
    async fn of(
        lab: &mut Lab,
        site: Addresses,
        topic: &'static str,
        count: usize,
    ) -> anyhow::Result<Self> {
        let sent = lab.record_file("sent");
        let driver = lab.driver(Client::V5).await?;
        let produce = produce(&site, topic, &sent).with("count", count);
        driver.ask(produce.with("threads", 1)).await?;
        let Some(first) = record::read(&sent)?.into_iter().next() else {
            bail!("nothing was sent");
        };
        let jars = lab.jars().await?;
        let home = lab.fresh_dir("popping")?;
        let log = home.join("popping.log");
        let mut command = crate::java::command(&jars.class_path(ClassPath::Client5), &home, 256);
        command
            .arg("dev.gantry.e2e.Popping")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?);
        let driver = Driver::over(&mut command, "the popping client", &log).await?;
        Ok(Self {
            driver,
            site,
            broker: first.place.broker,
            topic,
        })
    }

    fn command(&self, verb: &str) -> Command {
        Command::new(verb)
            .with("id", self.topic)
            .with("namesrv", self.site.name_server)
            .with("address", self.site.broker)
            .with("broker", &self.broker)
            .with("topic", self.topic)
            .with("group", format!("{}-group", self.topic))
    }

    async fn ask(&mut self, command: Command) -> anyhow::Result<Answer> {
        self.driver.ask(command).await
    }

    /// Starts a push consumer to which the broker gives its queues by pop.
    async fn start(&mut self, start: Command) -> anyhow::Result<()> {
        let group = format!("{}-group", self.topic);
        set_mode(self.site.broker, self.topic, &group).await?;
        self.ask(start).await.map(drop)
    }

    async fn acknowledge(&mut self, receipts: &[String]) -> anyhow::Result<()> {
        let ack = self.command("ack").with("receipts", receipts.join(","));
        let said = self.ask(ack).await?;
        ensure!(said.text("status")? == "OK", "{said:?}");
        Ok(())
    }

    /// Pops and acknowledges until all of these have come, each as its first retry.
    async fn retried(&mut self, wanted: &[String]) -> anyhow::Result<()> {
        let mut missing: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
        while !missing.is_empty() {
            let popped = self.ask(self.command("pop").with("pollMs", 30_000)).await?;
            ensure!(popped.text("status")? == FOUND, "{missing:?}: {popped:?}");
            for (key, times) in list(&popped, "keys")?.iter().zip(list(&popped, "times")?) {
                ensure!(missing.remove(*key), "{key} is not expected: {popped:?}");
                ensure!(times == "1", "{key}: {popped:?}");
            }
            self.acknowledge(&owned(&popped, "receipts")?).await?;
        }
        let popped = self.ask(self.command("pop")).await?;
        ensure!(popped.text("status")? == NOTHING, "{popped:?}");
        Ok(())
    }
}

fn owned(answer: &Answer, name: &str) -> anyhow::Result<Vec<String>> {
    let all = list(answer, name)?.into_iter();
    Ok(all.map(ToString::to_string).collect())
}

/// What `mqadmin setConsumeMode` asks for.
async fn set_mode(broker: SocketAddr, topic: &str, group: &str) -> anyhow::Result<()> {
    const SET_MESSAGE_REQUEST_MODE: i32 = 401;
    let body = json!({
        "topic": topic, "consumerGroup": group, "mode": "POP", "popShareQueueNum": 0,
    });
    let body = body.to_string();
    let request = raw::json_request(SET_MESSAGE_REQUEST_MODE, 1, &[], body.as_bytes());
    let mut connection = Connection::open(broker).await?;
    let answer = connection.call(&request).await?;
    ensure!(answer.code == 0, "{} {}", answer.code, answer.remark);
    Ok(())
}

async fn once(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const MESSAGES: usize = 200;
    let site = lab.shared(target).await?;
    let mut popping = Popping::of(lab, site, "popped-once", MESSAGES).await?;
    popping.start(popping.command("pop-start")).await?;
    let wait = popping.command("pop-wait").with("deliveries", MESSAGES);
    popping.ask(wait).await?;
    let seen = popping.ask(popping.command("pop-stop")).await?;
    let keys = owned(&seen, "keys")?;
    let distinct: BTreeSet<&String> = keys.iter().collect();
    let counts = (keys.len(), distinct.len());
    ensure!(counts == (MESSAGES, MESSAGES), "{counts:?}: {seen:?}");
    ensure!(
        list(&seen, "times")?.iter().all(|times| *times == "0"),
        "{seen:?}"
    );
    // They are acknowledged: a pop of the same group finds none.
    let popped = popping.ask(popping.command("pop")).await?;
    ensure!(popped.text("status")? == NOTHING, "{popped:?}");
    Ok(())
}

/// A consumer that takes longer than the message is its own acknowledges nothing.
async fn overslept(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let mut popping = Popping::of(lab, site, "overslept", 1).await?;
    let start = popping.command("pop-start").with("invisibleMs", 5_000);
    popping
        .start(start.with("asleep", 1).with("sleepMs", 7_000))
        .await?;
    let wait = popping.command("pop-wait").with("deliveries", 2);
    popping.ask(wait).await?;
    let seen = popping.ask(popping.command("pop-stop")).await?;
    ensure!(seen.text("times")? == "0,1", "{seen:?}");
    came_after(&seen, 5_000)
}

/// The client asks for a message that failed to come again in ten seconds.
async fn failed(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let mut popping = Popping::of(lab, site, "pop-failed", 1).await?;
    let start = popping.command("pop-start").with("failures", 1);
    popping.start(start).await?;
    let wait = popping.command("pop-wait").with("deliveries", 2);
    popping.ask(wait).await?;
    let seen = popping.ask(popping.command("pop-stop")).await?;
    ensure!(seen.text("times")? == "0,1", "{seen:?}");
    came_after(&seen, 10_000)
}

/// Java's broker looks a second ahead.
fn came_after(seen: &Answer, wanted_ms: i64) -> anyhow::Result<()> {
    const EARLY_MS_MAX: i64 = 1_500;
    let arrived = owned(seen, "arrivedMs")?;
    let arrived: Result<Vec<i64>, _> = arrived.iter().map(|ms| ms.parse()).collect();
    let [first, second] = arrived?[..] else {
        bail!("two deliveries, not {seen:?}");
    };
    ensure!(second - first >= wanted_ms - EARLY_MS_MAX, "{seen:?}");
    Ok(())
}

async fn receipts(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const MESSAGES: usize = 6;
    let site = lab.shared(target).await?;
    let mut popping = Popping::of(lab, site, "receipts", MESSAGES).await?;
    let popped = popping
        .ask(popping.command("pop").with("pollMs", 10_000))
        .await?;
    let (keys, receipts) = (owned(&popped, "keys")?, owned(&popped, "receipts")?);
    ensure!(keys.len() == MESSAGES, "{popped:?}");
    popping.acknowledge(&receipts[..3]).await?;
    popping.acknowledge(&receipts[3..4]).await?;
    for receipt in &receipts[4..] {
        let change = popping.command("change").with("receipts", receipt);
        let longer = popping.ask(change.with("invisibleMs", 50_000)).await?;
        ensure!(longer.text("status")? == "OK", "{longer:?}");
        let change = popping.command("change");
        let change = change.with("receipts", longer.text("receipts")?);
        let shorter = popping.ask(change.with("invisibleMs", 1_000)).await?;
        ensure!(shorter.text("status")? == "OK", "{shorter:?}");
    }
    popping.retried(&keys[4..]).await
}

async fn in_order(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const MESSAGES: usize = 60;
    let site = lab.shared(target).await?;
    let mut popping = Popping::of(lab, site, "pop-ordered", MESSAGES).await?;
    let ordered = |popping: &Popping, max: usize, attempt: &str| {
        let pop = popping.command("pop").with("order", 1).with("queue", 0);
        let pop = pop.with("max", max).with("attempt", attempt);
        pop.with("pollMs", 2_000)
    };
    let first = popping.ask(ordered(&popping, 2, "one")).await?;
    let (keys, receipts) = (owned(&first, "keys")?, owned(&first, "receipts")?);
    ensure!(keys.len() == 2, "the first: {first:?}");
    let blocked = popping.ask(ordered(&popping, 2, "two")).await?;
    ensure!(blocked.text("status")? == NOTHING, "another: {blocked:?}");
    let same = popping.ask(ordered(&popping, 2, "one")).await?;
    ensure!(owned(&same, "keys")? == keys, "the same again: {same:?}");
    // By the receipts of the last pop alone.
    popping.acknowledge(&receipts[..1]).await?;
    let blocked = popping.ask(ordered(&popping, 2, "three")).await?;
    ensure!(blocked.text("status")? == NOTHING, "{blocked:?}");
    let receipts = owned(&same, "receipts")?;
    for receipt in receipts {
        popping.acknowledge(&[receipt]).await?;
    }
    let next = popping.ask(ordered(&popping, 2, "four")).await?;
    let after = owned(&next, "keys")?;
    ensure!(
        after.len() == 2 && after.iter().all(|key| !keys.contains(key)),
        "{next:?}"
    );
    let given = popping.command("change").with("invisibleMs", 1_000);
    for receipt in owned(&next, "receipts")? {
        popping.ask(given.clone().with("receipts", receipt)).await?;
    }
    let limit = Duration::from_secs(20);
    let again = ordered(&popping, 2, "five");
    until("they are visible again", limit, async || {
        let again = popping.driver.ask(again.clone()).await?;
        ensure!(owned(&again, "keys")? == after, "{again:?}");
        ensure!(again.text("times")? == "1,1", "{again:?}");
        Ok(())
    })
    .await
}

async fn killed(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const MESSAGES: usize = 20;
    let mut site = lab.site(target, "pop-killed").await?;
    let mut popping = Popping::of(lab, addresses(&site), "pop-killed", MESSAGES).await?;
    let popped = popping
        .ask(popping.command("pop").with("pollMs", 10_000))
        .await?;
    let (keys, receipts) = (owned(&popped, "keys")?, owned(&popped, "receipts")?);
    ensure!(keys.len() == MESSAGES, "{popped:?}");
    popping.acknowledge(&receipts[..10]).await?;
    // What was changed by then is in the log.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    site.broker.kill().await?;
    site.broker = lab.broker(target, &site.plan).await?;
    let none = popping
        .ask(popping.command("pop").with("pollMs", 2_000))
        .await?;
    ensure!(none.text("status")? == NOTHING, "out again: {none:?}");
    for receipt in &receipts[10..] {
        let change = popping.command("change").with("receipts", receipt);
        let given = popping.ask(change.with("invisibleMs", 0)).await?;
        ensure!(given.text("status")? == "OK", "{given:?}");
    }
    popping.retried(&keys[10..]).await
}
