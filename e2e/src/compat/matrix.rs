//! One run of the matrix: servers, topics, one program a client, all checks at once.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::checks::{Cell, Check, Client, Place};
use super::program::{Line, Outcome, Program};
use super::witness::Witness;
use crate::lab::{self, BrokerPlan, Lab, NameServer, Target};
use crate::process::{Process, free_ports, local};
use crate::raw::{self, Connection};
use crate::runner::until;

/// What a cell came to.
#[derive(Debug, Clone)]
pub struct Ended {
    pub outcome: Outcome,
    pub reason: String,
}

pub type Results = BTreeMap<(Client, &'static str), Ended>;

/// A whole run may take as long.
const RUN_SECONDS_MAX: u64 = 230;

/// The servers of one place.
#[derive(Debug)]
struct Servers {
    place: Place,
    _name_server: NameServer,
    broker: Process,
    plan: BrokerPlan,
    /// Where clients find the name server.
    entrance: SocketAddr,
    witnesses: Vec<Witness>,
}

/// Runs the checks; `broken` takes away what each of them needs, so that each must fail.
pub async fn run(
    lab: &mut Lab,
    target: Target,
    cells: &[Cell],
    broken: bool,
) -> anyhow::Result<Results> {
    let mut servers = Vec::new();
    for place in [Place::Shared, Place::Restarted, Place::Witnessed] {
        if cells.iter().any(|(_, check)| check.place == place) {
            servers.push(start(lab, target, place).await?);
        }
    }
    for (client, check) in cells {
        create_topics(at(&servers, check)?, *client, check, broken).await?;
    }
    for (client, check) in cells {
        await_routes(at(&servers, check)?, *client, check, broken).await?;
    }
    let (sender, lines) = mpsc::channel(64);
    let mut programs = BTreeMap::new();
    for client in Client::ALL {
        if cells.iter().any(|(other, _)| *other == client) {
            let home = lab.fresh_dir(client.id())?;
            let jars = lab.jars().await?;
            let program = Program::start(client, &jars, &home, sender.clone()).await?;
            programs.insert(client, program);
        }
    }
    for (client, check) in cells {
        let place = at(&servers, check)?;
        let line = [
            check.id,
            &place.entrance.to_string(),
            &topic(*client, check, broken),
            &place.plan.name,
            &check.queues.to_string(),
            &broken.to_string(),
        ];
        let program = programs.get_mut(client).context("invariant: started")?;
        program.say(&line.join("\t")).await?;
    }
    let mut run = Run {
        target,
        broken,
        servers,
        programs,
        waiting: cells.iter().map(|(c, check)| (*c, check.id)).collect(),
        restart: Vec::new(),
        restarted: false,
        results: Results::new(),
    };
    run.collect(lab, lines).await?;
    Ok(run.results)
}

#[derive(Debug)]
struct Run {
    target: Target,
    broken: bool,
    servers: Vec<Servers>,
    programs: BTreeMap<Client, Program>,
    waiting: Vec<(Client, &'static str)>,
    /// Clients that are ready for the restart.
    restart: Vec<Client>,
    restarted: bool,
    results: Results,
}

impl Run {
    /// Takes what the programs say until every check has ended.
    async fn collect(
        &mut self,
        lab: &mut Lab,
        mut lines: mpsc::Receiver<(Client, Line)>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(RUN_SECONDS_MAX);
        while !self.waiting.is_empty() {
            match tokio::time::timeout_at(deadline, lines.recv()).await {
                Ok(Some((client, line))) => self.line(client, line),
                Ok(None) | Err(_) => break,
            }
            let alone =
                |(client, id): &(Client, &str)| *id != "reconnect" || self.restart.contains(client);
            if !self.restarted && !self.restart.is_empty() && self.waiting.iter().all(alone) {
                self.restarted = true;
                self.restart_broker(lab).await?;
            }
        }
        for (client, id) in std::mem::take(&mut self.waiting) {
            let output = self.programs.get(&client).map(Program::output);
            let reason = format!("it has not ended: {}", output.unwrap_or_default());
            self.results.insert((client, id), Ended::threw(reason));
        }
        Ok(())
    }

    fn line(&mut self, client: Client, line: Line) {
        if line.outcome == Outcome::Restart {
            return self.restart.push(client);
        }
        let Some(at) = self
            .waiting
            .iter()
            .position(|cell| *cell == (client, line.check.as_str()))
        else {
            return;
        };
        let cell = self.waiting.swap_remove(at);
        let mut ended = Ended {
            outcome: line.outcome,
            reason: line.reason,
        };
        if ended.outcome == Outcome::Pass && cell.1 == "tls" {
            let mut witnesses = self.servers.iter().flat_map(|s| &s.witnesses);
            if let Some(complaint) = witnesses.find_map(Witness::complaint) {
                ended.outcome = Outcome::Differs;
                ended.reason = complaint;
            }
        }
        let seconds = line.ms as f64 / 1_000.0;
        let outcome = ended.outcome;
        println!(
            "{}::{} {outcome:?} after {seconds:.1} s",
            client.id(),
            cell.1
        );
        self.results.insert(cell, ended);
    }

    /// A broken run does not start it again.
    async fn restart_broker(&mut self, lab: &mut Lab) -> anyhow::Result<()> {
        const STOP_SECONDS_MAX: u64 = 40;
        let place = |s: &&mut Servers| s.place == Place::Restarted;
        let servers = self.servers.iter_mut().find(place);
        let servers = servers.context("invariant: it runs")?;
        servers.broker.signal(Signal::TERM);
        let limit = Duration::from_secs(STOP_SECONDS_MAX);
        servers.broker.ended(limit).await?;
        if !self.broken {
            servers.broker = lab.broker(self.target, &servers.plan).await?;
        }
        for program in self.programs.values_mut() {
            program.say("restarted").await?;
        }
        Ok(())
    }
}

impl Ended {
    pub fn passed(&self) -> anyhow::Result<()> {
        let (outcome, reason) = (self.outcome, &self.reason);
        ensure!(outcome == Outcome::Pass, "{outcome:?}: {reason}");
        Ok(())
    }

    fn threw(reason: String) -> Self {
        Self {
            outcome: Outcome::Threw,
            reason,
        }
    }
}

async fn start(lab: &mut Lab, target: Target, place: Place) -> anyhow::Result<Servers> {
    let name_server = lab.name_server(target).await?;
    let mut plan = lab.plan(&format!("{place:?}"), &[name_server.address])?;
    plan.name = plan.name.to_lowercase();
    let mut witnesses = Vec::new();
    let mut entrance = name_server.address;
    if place == Place::Witnessed {
        // The broker is found at another loopback address, where the witness stands.
        plan.advertised = Ipv4Addr::new(127, 0, 0, 2);
        witnesses.push(Witness::start(local(free_ports(1)?), name_server.address).await?);
        witnesses.push(Witness::start(plan.advertise(), plan.remoting()).await?);
        entrance = witnesses.first().context("invariant: pushed")?.address;
    }
    let broker = lab.broker(target, &plan).await?;
    Ok(Servers {
        place,
        _name_server: name_server,
        broker,
        plan,
        entrance,
        witnesses,
    })
}

fn at<'a>(servers: &'a [Servers], check: &Check) -> anyhow::Result<&'a Servers> {
    let found = servers.iter().find(|s| s.place == check.place);
    found.context("invariant: every place of a check was started")
}

fn topic(client: Client, check: &Check, broken: bool) -> String {
    let kind = if broken { "broken" } else { "check" };
    format!("{kind}-{}-{}", client.id(), check.id)
}

/// The topics of a check by their names in the broker.
fn topics(client: Client, check: &Check, broken: bool) -> Vec<String> {
    let topic = topic(client, check, broken);
    match check.id {
        "namespace" => vec![format!("NSA%{topic}"), format!("NSB%{topic}")],
        _ => vec![topic],
    }
}

/// Topics are there before the clients: one that finds none asks again after half a minute.
async fn create_topics(
    servers: &Servers,
    client: Client,
    check: &Check,
    broken: bool,
) -> anyhow::Result<()> {
    const UPDATE_AND_CREATE_TOPIC: i32 = 17;
    let queues = check.queues.to_string();
    let mut connection = Connection::open(servers.plan.remoting()).await?;
    for topic in topics(client, check, broken) {
        let fields = [
            ("topic", topic.as_str()),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", &queues),
            ("writeQueueNums", &queues),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("topicSysFlag", "0"),
            ("order", "false"),
        ];
        let request = raw::json_request(UPDATE_AND_CREATE_TOPIC, 1, &fields, b"");
        let answer = connection.call(&request).await?;
        ensure!(answer.code == 0, "no topic {topic}: {}", answer.remark);
    }
    Ok(())
}

async fn await_routes(
    servers: &Servers,
    client: Client,
    check: &Check,
    broken: bool,
) -> anyhow::Result<()> {
    const ROUTE_SECONDS_MAX: u64 = 30;
    let limit = Duration::from_secs(ROUTE_SECONDS_MAX);
    for topic in topics(client, check, broken) {
        for name_server in &servers.plan.name_servers {
            until("the topic has a route", limit, async || {
                let route = lab::route(*name_server, &topic).await?;
                route.with_context(|| topic.clone()).map(drop)
            })
            .await?;
        }
    }
    Ok(())
}
