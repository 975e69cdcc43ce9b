//! The name server: routes come and go with their brokers, and each kind of name server serves
//! each kind of broker.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::messages::{consume, produce};
use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::lab::{Addresses, Lab, Target, route};
use crate::record;
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "the_route_goes_with_a_killed_broker",
            Against::Both,
            |lab, target| Box::pin(route_goes(lab, target, Signal::KILL)),
        ),
        (
            "the_route_goes_with_a_stopped_broker",
            Against::Both,
            |lab, target| Box::pin(route_goes(lab, target, Signal::TERM)),
        ),
        (
            "a_restarted_name_server_learns_the_routes_again",
            Against::Both,
            |lab, target| Box::pin(learns_again(lab, target)),
        ),
        (
            "a_java_broker_registers_with_it",
            Against::Gantry,
            |lab, _| Box::pin(mixed(lab, Target::Gantry, Target::Java)),
        ),
        (
            "the_broker_registers_with_java",
            Against::Gantry,
            |lab, _| Box::pin(mixed(lab, Target::Java, Target::Gantry)),
        ),
    ]
}

async fn route_goes(lab: &mut Lab, target: Target, signal: Signal) -> anyhow::Result<()> {
    const TOPIC: &str = "gone";
    // Both see the broken connection at once; Java sweeps its queue of departures every second.
    const GONE_SECONDS_MAX: u64 = 15;
    let site = lab.site(target, "gone").await?;
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    let addresses = super::crash::addresses(&site);
    driver
        .ask(produce(&addresses, TOPIC, &sent).with("count", 8))
        .await?;
    let name_server = site.name_server.address;
    let before = route(name_server, TOPIC)
        .await?
        .context("no route before")?;
    ensure!(
        before.contains(&site.plan.name),
        "the route before: {before}"
    );
    site.broker.signal(signal);
    let limit = Duration::from_secs(GONE_SECONDS_MAX);
    until("the route is gone", limit, async || {
        let left = route(name_server, TOPIC).await?;
        ensure!(left.is_none(), "still there: {left:?}");
        Ok(())
    })
    .await
}

async fn learns_again(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    // Both brokers register every 10 s here; Java is slow to dial a name server that was gone.
    const LEARN_SECONDS_MAX: u64 = 90;
    let first = lab.name_server(target).await?;
    let address = first.address;
    let second = lab.name_server(target).await?;
    let mut plan = lab.plan("learn", &[first.address, second.address])?;
    if target == Target::Gantry {
        plan.extra_yaml
            .push_str("properties:\n  registerNameServerPeriod: 10000\n");
    }
    let broker = lab.broker(target, &plan).await?;
    // A registration can't outlive the process that held it; the other one keeps its own.
    drop(first);
    let kept = route(second.address, "TBW102").await?;
    ensure!(kept.is_some(), "the other name server lost its route");
    drop(second);
    let third = lab.name_server_at(target, address).await?;
    let limit = Duration::from_secs(LEARN_SECONDS_MAX);
    until("the route is known again", limit, async || {
        let route = route(third.address, "TBW102").await?;
        route.context("no route yet")
    })
    .await?;
    drop(broker);
    Ok(())
}

/// A name server of one kind and a broker of the other; the broker asks by data version before it
/// registers again, and the official client uses the two.
async fn mixed(lab: &mut Lab, names: Target, broker: Target) -> anyhow::Result<()> {
    const MESSAGES: usize = 500;
    let name_server = lab.name_server(names).await?;
    let mut plan = lab.plan("mixed", &[name_server.address])?;
    plan.ask_before_register = true;
    let process = lab.broker(broker, &plan).await?;
    let addresses = Addresses {
        name_server: name_server.address,
        name_server_http: name_server.http,
        broker: plan.remoting(),
        broker_http: plan.http(),
    };
    for client in [Client::V5, Client::V4] {
        let topic = format!("mixed-{client:?}");
        let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
        let driver = lab.driver(client).await?;
        driver
            .ask(produce(&addresses, &topic, &sent).with("count", MESSAGES))
            .await?;
        driver
            .ask(consume(&addresses, &topic, "mixed", &pushed))
            .await?;
        let wait = Command::new("consume-wait")
            .with("id", "mixed")
            .with("distinct", MESSAGES);
        driver.ask(wait).await?;
        driver
            .ask(Command::new("consume-stop").with("id", "mixed"))
            .await?;
        record::exactly(&record::read(&sent)?, &record::read(&pushed)?)?;
    }
    still_there(name_server.address).await?;
    drop(process);
    Ok(())
}

/// A broker that only asks whether something changed is not forgotten.
async fn still_there(name_server: SocketAddr) -> anyhow::Result<()> {
    const ASKED_TWICE: Duration = Duration::from_secs(22);
    tokio::time::sleep(ASKED_TWICE).await;
    let left = route(name_server, "mixed-V5").await?;
    ensure!(left.is_some(), "the route is gone while its broker lives");
    Ok(())
}
