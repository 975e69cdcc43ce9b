//! mqadmin 5.5.0 says of Gantry what it says of the Java broker.
//!
//! One scenario is played on a site of each kind, command by command in one JVM (`Admin.java`).
//! What a command printed is compared after the rules of `e2e/mqadmin.toml`, each of which says
//! why its difference is none.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use regex::Regex;
use toml_edit::{DocumentMut, Table};

use super::messages::{consume, produce};
use super::{Against, Row};
use crate::java::driver::{Client, Command, Driver};
use crate::java::jars::ClassPath;
use crate::java::server::CLUSTER;
use crate::lab::{Lab, Site, Target};
use crate::record::{self, Record};

macro_rules! rows {
    ($($name:literal $command:literal)*) => {
        vec![$((
            $name,
            Against::Gantry,
            |lab, _| Box::pin(compare(lab, $command)),
        )),*]
    };
}

pub fn rows() -> Vec<Row> {
    rows![
        "mqadmin_updatetopic" "updateTopic"
        "mqadmin_updatesubgroup" "updateSubGroup"
        "mqadmin_clusterlist" "clusterList"
        "mqadmin_topiclist" "topicList"
        "mqadmin_topicroute" "topicRoute"
        "mqadmin_topicstatus" "topicStatus"
        "mqadmin_brokerstatus" "brokerStatus"
        "mqadmin_updatebrokerconfig" "updateBrokerConfig"
        "mqadmin_querymsgbyid" "queryMsgById"
        "mqadmin_querymsgbykey" "queryMsgByKey"
        "mqadmin_querymsgbyuniquekey" "queryMsgByUniqueKey"
        "mqadmin_consumerprogress" "consumerProgress"
        "mqadmin_resetoffsetbytime" "resetOffsetByTime"
        "mqadmin_deletetopic" "deleteTopic"
        "mqadmin_consumerconnection" "consumerConnection"
        "mqadmin_consumerstatus" "consumerStatus"
        "mqadmin_clonegroupoffset" "cloneGroupOffset"
        "mqadmin_deletesubgroup" "deleteSubGroup"
    ]
}

async fn compare(lab: &mut Lab, command: &str) -> anyhow::Result<()> {
    for target in [Target::Java, Target::Gantry] {
        if !lab.printed.keys().any(|(played, _)| *played == target) {
            let played = play(lab, target).await;
            if let Err(error) = &played {
                // The scenario is not played again for each command.
                let note = (target, "00 failed".to_owned());
                lab.printed.insert(note, error.to_string());
            }
            played?;
        }
    }
    let rules = rules()?;
    let (mut steps, mut differ) = (0, Vec::new());
    for ((target, step), java) in &lab.printed {
        if *target != Target::Java || step.split(' ').nth(1) != Some(command) {
            continue;
        }
        let gantry = lab.printed.get(&(Target::Gantry, step.clone()));
        let gantry = gantry.with_context(|| format!("{step}: not played"))?;
        let [java, gantry] = [java, gantry].map(|text| normalised(&rules, command, text));
        if java != gantry {
            differ.push(format!(
                "{step}\n--- Java printed\n{java}\n--- Gantry printed\n{gantry}\n"
            ));
        }
        steps += 1;
    }
    ensure!(steps > 0, "no step runs {command}");
    ensure!(differ.is_empty(), "{}", differ.join("\n"));
    Ok(())
}

/// A player: the JVM, its site, and where the outputs go.
struct Mqadmin<'a> {
    driver: Driver,
    site: &'a Site,
    printed: Vec<(String, String)>,
}

impl Mqadmin<'_> {
    /// Runs a command; `BROKER` stands for the broker's address.
    async fn run(&mut self, line: &str) -> anyhow::Result<()> {
        self.run_as(line, line).await
    }

    /// Runs a command under a name that is the same in every run.
    async fn run_as(&mut self, name: &str, line: &str) -> anyhow::Result<()> {
        let broker = self.site.plan.remoting().to_string();
        let name_server = self.site.name_server.address;
        let words = format!("{line} -n {name_server}").replace("BROKER", &broker);
        let words = words.replace(' ', "\u{1}");
        let answer = self.driver.ask(Command::new(&words)).await;
        let answer = answer.with_context(|| line.to_owned())?;
        let step = format!("{:02} {name}", self.printed.len() + 1);
        self.printed.push((step, unescaped(answer.text("out")?)));
        Ok(())
    }
}

async fn play(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.site(target, "mqadmin").await?;
    let jars = lab.jars().await?;
    let home = lab.fresh_dir("mqadmin-home")?;
    let log = home.join("admin.log");
    let mut command = crate::java::command(&jars.class_path(ClassPath::Server), &home, 256);
    command
        .arg("dev.gantry.e2e.Admin")
        // consumerStatus writes files where it stands.
        .current_dir(&home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log)?);
    let driver = Driver::over(&mut command, "mqadmin", &log).await?;
    let mut mqadmin = Mqadmin {
        driver,
        site: &site,
        printed: Vec::new(),
    };
    administer(&mut mqadmin).await?;
    let record = lab.record_file("mqadmin");
    let sent = send(lab, &site, &record).await?;
    look(&mut mqadmin, &sent).await?;
    let consumed = lab.record_file("mqadmin");
    consume_all(lab, &mut mqadmin, &consumed).await?;
    clean(&mut mqadmin).await?;
    let printed = mqadmin.printed.into_iter();
    lab.printed
        .extend(printed.map(|(step, text)| ((target, step), text)));
    Ok(())
}

async fn administer(mqadmin: &mut Mqadmin<'_>) -> anyhow::Result<()> {
    for line in [
        "updateTopic -b BROKER -t four -r 4 -w 4 -a +message.type=NORMAL",
        &format!("updateTopic -c {CLUSTER} -t one -r 1 -w 1 -p 6"),
        &format!("updateTopic -c {CLUSTER} -t four -r 4 -w 4 -p 6 -a=-message.type"),
        "updateTopic -b BROKER -t TBW102 -r 4 -w 4",
        "updateTopic -b BROKER -t four -r 4 -w 4 -a +no.such=1",
        "updateTopic -b BROKER -t four -r 4 -w 4 -a=-reserve.time",
        "updateTopic -b BROKER -t no.such/name -r 4 -w 4",
        "updateSubGroup -b BROKER -g group-b -r 5 -q 2",
        &format!("updateSubGroup -c {CLUSTER} -g group-c -s true -d true"),
        "updateSubGroup -b BROKER -g no.such/name",
        "topicRoute -t four",
        "topicRoute -t four -l",
        "topicRoute -t absent",
        "topicStatus -t four",
        "topicStatus -t absent",
        "consumerProgress -g absent",
    ] {
        mqadmin.run(line).await?;
    }
    Ok(())
}

/// Twenty messages over four queues, and three on one queue, which are returned.
async fn send(lab: &mut Lab, site: &Site, record: &Path) -> anyhow::Result<Vec<Record>> {
    let at = super::crash::addresses(site);
    let driver = lab.driver(Client::V5).await?;
    for (topic, count) in [("four", 20), ("one", 3)] {
        let produce = produce(&at, topic, record).with("count", count);
        driver.ask(produce.with("threads", 1)).await?;
    }
    record::read(record)
}

async fn look(mqadmin: &mut Mqadmin<'_>, sent: &[Record]) -> anyhow::Result<()> {
    let [first, ..] = sent else {
        anyhow::bail!("nothing was sent");
    };
    for (name, id) in [
        ("queryMsgById -t one -i", &first.offset_id),
        ("queryMsgByUniqueKey -t one -i", &first.id),
    ] {
        mqadmin.run_as(name, &format!("{name} {id}")).await?;
    }
    for line in [
        "queryMsgByKey -t one -k one-1",
        "queryMsgByKey -t one -k absent",
        "queryMsgByUniqueKey -t one -i 7F0000010000000000000000DEADBEEF",
        "queryMsgById -t one -i 7F00000100002A9F00000000DEADBEEF",
        "topicStatus -t four",
        "topicStatus -t one",
        "topicList",
        &format!("topicList -c {CLUSTER}"),
        "clusterList",
        "clusterList -m",
        "brokerStatus -b BROKER",
        "updateBrokerConfig -b BROKER -k longPollingEnable -v true",
        "updateBrokerConfig -b BROKER -k brokerConfigPath -v /tmp/other",
        "topicRoute -t one",
    ] {
        mqadmin.run(line).await?;
    }
    Ok(())
}

/// A consumer reads all of topic `one`, stays for some commands and leaves.
async fn consume_all(
    lab: &mut Lab,
    mqadmin: &mut Mqadmin<'_>,
    record: &Path,
) -> anyhow::Result<()> {
    let at = super::crash::addresses(mqadmin.site);
    let driver = lab.driver(Client::V5).await?;
    driver.ask(consume(&at, "one", "group", record)).await?;
    let wait = Command::new("consume-wait").with("id", "group");
    driver.ask(wait.with("distinct", 3)).await?;
    mqadmin.run("consumerConnection -g one-group").await?;
    mqadmin.run("consumerStatus -g one-group").await?;
    let stop = Command::new("consume-stop").with("id", "group");
    driver.ask(stop).await?;
    for line in [
        "consumerConnection -g one-group",
        "consumerProgress -g one-group",
        "consumerProgress -g one-group -t one",
        "consumerProgress",
        "cloneGroupOffset -s one-group -d group-b -t one",
        "consumerProgress -g group-b -t one",
        "resetOffsetByTime -g one-group -t one -s 1",
        "consumerProgress -g one-group -t one",
        "resetOffsetByTime -g one-group -t one -s now",
        "resetOffsetByTime -g one-group -t absent -s now",
        "resetOffsetByTime -g absent -t one -s now",
        "resetOffsetByTime -g one-group -t one -s 1 -b BROKER -q 0 -o 2",
        "resetOffsetByTime -g one-group -t one -s 1 -b BROKER -q 0 -o 99",
        "consumerProgress -g one-group -t one",
    ] {
        mqadmin.run(line).await?;
    }
    Ok(())
}

async fn clean(mqadmin: &mut Mqadmin<'_>) -> anyhow::Result<()> {
    for line in [
        &format!("deleteTopic -c {CLUSTER} -t four"),
        "topicRoute -t four",
        &format!("deleteTopic -c {CLUSTER} -t TBW102"),
        "deleteSubGroup -b BROKER -g group-b -r true",
        "consumerProgress -g group-b -t one",
        "topicList",
    ] {
        mqadmin.run(line).await?;
    }
    Ok(())
}

/// `Admin.java` writes a backslash as two, a newline as `\n`, a tab as `\t`.
fn unescaped(text: &str) -> String {
    let parts = text.split("\\\\");
    let parts: Vec<String> = parts
        .map(|part| part.replace("\\n", "\n").replace("\\t", "\t"))
        .collect();
    parts.join("\\")
}

/// A difference that is none: what is replaced in the output of which commands.
struct Rule {
    commands: Vec<String>,
    pattern: Regex,
    replace: String,
    /// The lines are compared in order of the alphabet.
    sorted: bool,
}

fn rules() -> anyhow::Result<Vec<Rule>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mqadmin.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let document: DocumentMut = text.parse()?;
    let rules = document
        .get("rule")
        .and_then(|rules| rules.as_array_of_tables());
    rules.context("no rule")?.iter().map(rule).collect()
}

fn rule(table: &Table) -> anyhow::Result<Rule> {
    let text = |key: &str| {
        let value = table.get(key).and_then(|value| value.as_str());
        value.with_context(|| format!("a rule without {key}"))
    };
    ensure!(text("reason")?.len() > 10, "a rule needs its reason");
    let commands = table.get("commands").and_then(|value| value.as_array());
    let commands = commands.context("a rule without commands")?;
    let sorted = table.get("sorted").is_some();
    Ok(Rule {
        commands: commands
            .iter()
            .filter_map(|command| command.as_str().map(str::to_owned))
            .collect(),
        pattern: Regex::new(if sorted { "^$" } else { text("pattern")? })?,
        replace: if sorted { "" } else { text("replace")? }.to_owned(),
        sorted,
    })
}

fn normalised(rules: &[Rule], command: &str, text: &str) -> String {
    let mut text = text.to_owned();
    for rule in rules {
        if !rule.commands.iter().any(|of| of == command || of == "*") {
            continue;
        }
        text = rule
            .pattern
            .replace_all(&text, rule.replace.as_str())
            .into_owned();
        if rule.sorted {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            text = lines.join("\n");
        }
    }
    text
}
