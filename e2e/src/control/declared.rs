//! Topics and ConsumerGroups of a RocketMQ that no BrokerCluster stands for: Gantry's name server
//! and broker, and the official ones. What `kubectl` says is compared with what brokers have, and
//! changed behind the operator's back by `mqadmin`.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::life::condition;
use super::plane::{OPERATOR_NAMESPACE, Plane};
use super::{Lab, many};
use crate::host::crash::addresses;
use crate::host::messages::{consume, produce};
use crate::http;
use crate::java::driver::{Client, Command, Driver};
use crate::java::jars::ClassPath;
use crate::kube::kubectl::Kubectl;
use crate::lab::{self, Site, Target, route};
use crate::process::{Process, free_ports, local};
use crate::runner::until;

const WAIT: Duration = Duration::from_secs(90);
/// What a broker has otherwise is put right in less.
const REPAIRED: Duration = Duration::from_secs(30);
/// Producers learn of fewer queues only after some time, which a shrink waits for.
const SHRUNK: Duration = Duration::from_mins(2);

const ASKS_FOR_SIGNATURES: &str = "
authenticationEnabled=true
authenticationProvider=\
  org.apache.rocketmq.auth.authentication.provider.DefaultAuthenticationProvider
authenticationMetadataProvider=\
  org.apache.rocketmq.auth.authentication.provider.LocalAuthenticationMetadataProvider
initAuthenticationUser={\"username\":\"gantry\",\"password\":\"12345678\"}
innerClientAuthenticationCredentials={\"accessKey\":\"gantry\",\"secretKey\":\"12345678\"}
";

/// A namespace with its operator, and the servers that its resources point to.
struct Place<'a> {
    plane: &'a Plane,
    host: &'a mut lab::Lab,
    kubectl: Kubectl,
    site: Site,
    mqadmin: Driver,
    pages: SocketAddr,
    _operator: Process,
}

impl<'a> Place<'a> {
    async fn open(lab: &'a mut Lab, target: Target, what: &str) -> anyhow::Result<Self> {
        Self::open_with(lab, target, what, "").await
    }

    /// With more lines of Java's configuration.
    async fn open_with(
        lab: &'a mut Lab,
        target: Target,
        what: &str,
        properties: &str,
    ) -> anyhow::Result<Self> {
        lab.plane().await?;
        let plane = lab.plane.as_ref().context("made above")?;
        let host = &mut lab.host;
        let name = format!("{what}-{}", format!("{target:?}").to_lowercase());
        let kubectl = plane.namespace(&name).await?;
        let site = host.site_with(target, &name, properties).await?;
        let (operator, pages) = plane.operator(&name, "one", None)?;
        let home = host.fresh_dir("mqadmin")?;
        let log = home.join("admin.log");
        let class_path = host.jars().await?.class_path(ClassPath::Server);
        let mut command = crate::java::command(&class_path, &home, 256);
        command
            .arg("dev.gantry.e2e.Admin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?);
        Ok(Self {
            plane,
            host,
            kubectl,
            site,
            mqadmin: Driver::over(&mut command, "mqadmin", &log).await?,
            pages,
            _operator: operator,
        })
    }

    fn path(&self, kind: &str, name: &str) -> String {
        let namespace = &self.kubectl.namespace;
        format!("/apis/gantry.dev/v1alpha1/namespaces/{namespace}/{kind}s/{name}").to_lowercase()
    }

    async fn put(&self, kind: &str, name: &str, spec: Value) -> anyhow::Result<()> {
        let mut spec = spec;
        spec["nameServers"] = json!([self.site.name_server.address.to_string()]);
        let object = json!({
            "apiVersion": "gantry.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name}, "spec": spec,
        });
        self.plane.apply(&self.path(kind, name), &object).await?;
        Ok(())
    }

    /// Waits until a condition of the newest generation is as it is said.
    async fn wait(&self, kind: &str, name: &str, says: [&str; 3]) -> anyhow::Result<Value> {
        let [of, status, reason] = says;
        let mut found = Value::Null;
        let what = format!("{of} of {kind} {name} is {status} by {reason}");
        until(&what, WAIT, async || {
            found = self.plane.get(&self.path(kind, name)).await?;
            let said = condition(&found, of);
            let newest = said["observedGeneration"] == found["metadata"]["generation"];
            let fits = said["status"] == status && said["reason"] == reason;
            ensure!(newest && fits, "{}", found["status"]);
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// Waits until a Topic that is not Ready says so with these words.
    async fn says(&self, name: &str, words: &str) -> anyhow::Result<()> {
        until(&format!("Topic {name} says {words}"), WAIT, async || {
            let found = self.plane.get(&self.path("Topic", name)).await?;
            let ready = condition(&found, "Ready");
            let message = ready["message"].as_str().unwrap_or_default();
            let says = ready["status"] == "False" && message.contains(words);
            ensure!(says, "{}", found["status"]);
            Ok(())
        })
        .await
    }

    /// What the broker has of a group.
    async fn of_broker(&self, group: &str) -> anyhow::Result<Value> {
        many::group(self.site.plan.remoting(), group).await
    }

    async fn admin(&mut self, line: &str) -> anyhow::Result<String> {
        let broker = self.site.plan.remoting().to_string();
        let words = format!("{line} -n {}", self.site.name_server.address);
        let words = words.replace("BROKER", &broker).replace(' ', "\u{1}");
        let answer = self.mqadmin.ask(Command::new(&words)).await?;
        Ok(answer.text("out")?.replace("\\n", "\n"))
    }

    /// Waits until the route has these read and write queues; None: until there is none.
    async fn queues(
        &self,
        topic: &str,
        expected: Option<(i64, i64)>,
        within: Duration,
    ) -> anyhow::Result<()> {
        let what = format!("the queues of {topic} are {expected:?}");
        until(&what, within, async || {
            let route = route(self.site.name_server.address, topic).await?;
            let number = |route: &str, of: &str| -> Option<i64> {
                let rest = route.split(&format!("\"{of}\":")).nth(1)?;
                rest.split([',', '}']).next()?.parse().ok()
            };
            let found = route.as_deref().and_then(|route| {
                Some((
                    number(route, "readQueueNums")?,
                    number(route, "writeQueueNums")?,
                ))
            });
            ensure!(found == expected, "{found:?}");
            Ok(())
        })
        .await
    }

    async fn delete(&self, kind: &str, name: &str) -> anyhow::Result<()> {
        let words = ["delete", "--wait=false", kind, name];
        self.kubectl.ok(&words).await.map(drop)
    }

    async fn gone(&self, kind: &str, name: &str) -> anyhow::Result<()> {
        let wait = ["wait", "--for=delete", "--timeout=60s", kind, name];
        self.kubectl.ok(&wait).await.map(drop)
    }

    async fn send(&mut self, topic: &str, count: usize) -> anyhow::Result<()> {
        let at = addresses(&self.site);
        let record = self.host.record_file(topic);
        let driver = self.host.driver(Client::V5).await?;
        let produce = produce(&at, topic, &record).with("count", count);
        driver.ask(produce.with("threads", 1)).await.map(drop)
    }
}

/// Created, adopted, changed, repaired, observed, protected, claimed twice.
pub async fn topics(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let mut place = Place::open(lab, target, "topics").await?;
    adopted(&mut place).await?;
    repaired(&mut place).await?;
    protected(&mut place).await?;
    deleted(&mut place).await
}

/// A topic that exists already, with messages: nothing of it changes.
async fn adopted(place: &mut Place<'_>) -> anyhow::Result<()> {
    place
        .admin("updateTopic -b BROKER -t Old_One -r 6 -w 6")
        .await?;
    place.queues("Old_One", Some((6, 6)), WAIT).await?;
    place.send("Old_One", 12).await?;
    let before = place.admin("topicStatus -t Old_One").await?;
    place
        .put("Topic", "old", json!({"topicName": "Old_One"}))
        .await?;
    place
        .wait("Topic", "old", ["Ready", "True", "Ready"])
        .await?;
    ensure!(
        place.admin("topicStatus -t Old_One").await? == before,
        "messages moved"
    );
    place.queues("Old_One", Some((6, 6)), WAIT).await
}

/// What somebody else changes is put right, or only told of.
async fn repaired(place: &mut Place<'_>) -> anyhow::Result<()> {
    let spec = json!({"queues": 4, "messageType": "NORMAL", "retentionHours": 24});
    place.put("Topic", "orders", spec).await?;
    let found = place
        .wait("Topic", "orders", ["Ready", "True", "Ready"])
        .await?;
    ensure!(found["status"]["queues"] == "4", "{}", found["status"]);
    place.queues("orders", Some((4, 4)), WAIT).await?;

    // Somebody changes it: put right, told of by an event.
    place
        .admin("updateTopic -b BROKER -t orders -r 5 -w 5 -p 4")
        .await?;
    // More queues than wanted are written to no more at once, and read until nobody may write.
    until("the write queues are right again", REPAIRED, async || {
        let route = route(place.site.name_server.address, "orders").await?;
        let route = route.context("no route")?;
        let right = route.contains("\"writeQueueNums\":4") && route.contains("\"perm\":6");
        ensure!(right, "{route}");
        Ok(())
    })
    .await?;
    place.queues("orders", Some((4, 4)), SHRUNK).await?;
    place
        .wait("Topic", "orders", ["Ready", "True", "Ready"])
        .await?;
    place
        .admin("updateTopic -b BROKER -t orders -r 2 -w 2")
        .await?;
    place.queues("orders", Some((4, 4)), REPAIRED).await?;
    let words = ["get", "events", "--output=jsonpath={.items[*].reason}"];
    let events = place.kubectl.ok(&words).await?;
    ensure!(events.contains("DriftRepaired"), "{events}");

    // Observed: reported and left.
    let spec = json!({"queues": 4, "managementPolicy": "Observe"});
    place.put("Topic", "orders", spec).await?;
    place
        .wait("Topic", "orders", ["Ready", "True", "Ready"])
        .await?;
    place
        .admin("updateTopic -b BROKER -t orders -r 2 -w 2")
        .await?;
    let says = ["DriftDetected", "True", "Drifted"];
    let found = place.wait("Topic", "orders", says).await?;
    let drift = &found["status"]["drift"][0];
    let expected = json!(["readQueues", "4", "2"]);
    ensure!(
        json!([drift["field"], drift["want"], drift["have"]]) == expected,
        "{drift}"
    );
    place.queues("orders", Some((2, 2)), WAIT).await
}

/// Protected from changes; and of two resources for one name the older one rules.
async fn protected(place: &mut Place<'_>) -> anyhow::Result<()> {
    let spec = json!({"queues": 4, "protection": {"preventUpdate": true, "preventDelete": true}});
    place.put("Topic", "orders", spec).await?;
    let says = ["Stalled", "True", "UpdatePrevented"];
    place.wait("Topic", "orders", says).await?;

    // The older of two resources rules.
    let spec = json!({"topicName": "orders", "queues": 9});
    place.put("Topic", "other", spec).await?;
    place
        .wait("Topic", "other", ["Conflict", "True", "DeclaredTwice"])
        .await?;
    place
        .wait("Topic", "other", ["Stalled", "True", "Conflict"])
        .await?;
    place.delete("rkt", "other").await?;
    place.gone("rkt", "other").await?;
    place.queues("orders", Some((2, 2)), WAIT).await
}

/// Prevented, held while there are messages, done.
async fn deleted(place: &mut Place<'_>) -> anyhow::Result<()> {
    place.delete("rkt", "orders").await?;
    let says = ["Stalled", "True", "DeletionPrevented"];
    place.wait("Topic", "orders", says).await?;
    let spec = json!({"queues": 4, "deletionPolicy": "DeleteIfEmpty"});
    place.send("orders", 1).await?;
    place.put("Topic", "orders", spec).await?;
    place
        .wait("Topic", "orders", ["Stalled", "True", "NotEmpty"])
        .await?;
    let spec = json!({"queues": 4, "deletionPolicy": "Delete"});
    place.put("Topic", "orders", spec).await?;
    place.gone("rkt", "orders").await?;
    place.queues("orders", None, WAIT).await?;

    // Empty, it goes; retained, it stays.
    let spec = json!({"deletionPolicy": "DeleteIfEmpty"});
    place.put("Topic", "empty", spec).await?;
    place
        .wait("Topic", "empty", ["Ready", "True", "Ready"])
        .await?;
    place.delete("rkt", "empty").await?;
    place.gone("rkt", "empty").await?;
    place.queues("empty", None, WAIT).await?;
    place.delete("rkt", "old").await?;
    place.gone("rkt", "old").await?;
    place.queues("Old_One", Some((6, 6)), WAIT).await
}

/// Brokers that ask for signatures: the Secret that is named signs, and nothing else does.
pub async fn signed(lab: &mut Lab) -> anyhow::Result<()> {
    let mut place = Place::open_with(lab, Target::Java, "signed", ASKS_FOR_SIGNATURES).await?;
    let place = &mut place;
    let spec = |secret: &str| json!({"queues": 4, "secretRef": {"name": secret}});
    place.put("Topic", "orders", spec("keys")).await?;
    place.says("orders", "may not read Secret").await?;
    may_read_secrets(place.plane, &place.kubectl.namespace).await?;
    let says = ["Stalled", "True", "NoCredentials"];
    place.wait("Topic", "orders", says).await?;
    place.says("orders", "does not exist").await?;
    let secret = |name: &str, key: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "stringData": {"accessKey": "gantry", "secretKey": key},
        })
    };
    let path = |name: &str| format!("/api/v1/namespaces/signed-java/secrets/{name}");
    let wrong = secret("keys", "nobody's");
    place.plane.apply(&path("keys"), &wrong).await?;
    place.says("orders", "check signature failed").await?;
    let right = secret("keys", "12345678");
    place.plane.apply(&path("keys"), &right).await?;
    place
        .wait("Topic", "orders", ["Ready", "True", "Ready"])
        .await?;
    place.queues("orders", Some((4, 4)), WAIT).await?;
    // Another has no part in what these keys may see.
    let spec = json!({"topicName": "orders-too", "queues": 4});
    place.put("Topic", "unsigned", spec).await?;
    place.says("unsigned", "username cannot be null").await?;
    place.queues("orders-too", None, WAIT).await
}

/// What the chart gives with `readSecrets`, in one namespace.
async fn may_read_secrets(plane: &Plane, namespace: &str) -> anyhow::Result<()> {
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "secrets"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
    });
    plane.apply(&format!("{path}/roles/secrets"), &role).await?;
    let operator =
        json!({"kind": "ServiceAccount", "name": "gantry", "namespace": OPERATOR_NAMESPACE});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "secrets"}, "subjects": [operator],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "secrets"},
    });
    let path = format!("{path}/rolebindings/secrets");
    plane.apply(&path, &binding).await.map(drop)
}

/// A namespace goes with all that it declares, whatever is protected in it and although nobody can
/// be asked about it.
pub async fn with_namespace(lab: &mut Lab) -> anyhow::Result<()> {
    let plane = lab.plane().await?;
    let kubectl = plane.namespace("goes").await?;
    let (_operator, _) = plane.operator("goes", "one", None)?;
    let nobody = json!([local(free_ports(1)?).to_string()]);
    let protection = json!({"preventDelete": true});
    let topic = json!({"nameServers": nobody, "protection": protection});
    let group = json!({"nameServers": nobody, "deletionPolicy": "DeleteWithOffsets"});
    for (kind, spec) in [("Topic", topic), ("ConsumerGroup", group)] {
        let path = format!("/apis/gantry.dev/v1alpha1/namespaces/goes/{kind}s/kept");
        let object = json!({
            "apiVersion": "gantry.dev/v1alpha1", "kind": kind,
            "metadata": {"name": "kept"}, "spec": spec,
        });
        let path = path.to_lowercase();
        plane.apply(&path, &object).await?;
        until(&format!("{kind} is held and waits"), WAIT, async || {
            let found = plane.get(&path).await?;
            let held = found["metadata"]["finalizers"].is_array();
            let waits = condition(&found, "Ready")["reason"] == "WaitingForNameServer";
            ensure!(held && waits, "{found}");
            Ok(())
        })
        .await?;
    }
    let words = ["delete", "namespace", "goes", "--timeout=60s"];
    kubectl.ok(&words).await.map(drop)
}

/// Queues above the new number are read until a group that lags has consumed them.
pub async fn shrinks(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let mut place = Place::open(lab, target, "shrinks").await?;
    place.put("Topic", "wide", json!({"queues": 8})).await?;
    place
        .wait("Topic", "wide", ["Ready", "True", "Ready"])
        .await?;
    place.put("ConsumerGroup", "wide-slow", json!({})).await?;
    place
        .wait("ConsumerGroup", "wide-slow", ["Ready", "True", "Ready"])
        .await?;
    place.send("wide", 16).await?;
    consumed(&mut place, 16).await?;
    place.send("wide", 80).await?;

    place.put("Topic", "wide", json!({"queues": 2})).await?;
    let says = ["Shrinking", "True", "WaitingForGroups"];
    place.wait("Topic", "wide", says).await?;
    place.queues("wide", Some((8, 2)), WAIT).await?;
    until("the group is named", WAIT, async || {
        let found = place.plane.get(&place.path("Topic", "wide")).await?;
        let message = condition(&found, "Shrinking")["message"].to_string();
        ensure!(
            message.contains("group wide-slow has not read queue 2"),
            "{message}"
        );
        Ok(())
    })
    .await?;
    consumed(&mut place, 80).await?;
    place.queues("wide", Some((2, 2)), SHRUNK).await?;
    place
        .wait("Topic", "wide", ["Shrinking", "False", "NotShrinking"])
        .await?;
    place
        .wait("Topic", "wide", ["Ready", "True", "Ready"])
        .await
        .map(drop)
}

/// The group reads so many messages and stops.
async fn consumed(place: &mut Place<'_>, count: usize) -> anyhow::Result<()> {
    let at = addresses(&place.site);
    let record = place.host.record_file("slow");
    let driver = place.host.driver(Client::V5).await?;
    let start = consume(&at, "wide", "slow", &record).with("persistMs", 500);
    driver.ask(start).await?;
    let wait = Command::new("consume-wait").with("id", "slow");
    let answer = driver.ask(wait.with("distinct", count)).await?;
    driver
        .ask(Command::new("consume-stop").with("id", "slow"))
        .await?;
    ensure!(answer.number("distinct")? >= count as i64, "{answer:?}");
    Ok(())
}

/// Settings, members, lag and members that disagree, with official consumers.
pub async fn groups(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    // Java's deletion of a group asks what type it had, which would create it again.
    let alone = "autoCreateSubscriptionGroup=false";
    let mut place = Place::open_with(lab, target, "groups", alone).await?;
    place.put("Topic", "mail", json!({"queues": 4})).await?;
    place
        .wait("Topic", "mail", ["Ready", "True", "Ready"])
        .await?;
    let spec = json!({
        "retry": {"maxTimes": 3, "policy": "Exponential"},
        "lagAlert": {"messages": 10}, "deletionPolicy": "Delete",
        "subscriptions": [{"topic": "mail", "expression": "a || b"}],
    });
    place.put("ConsumerGroup", "mail-first", spec).await?;
    place
        .wait("ConsumerGroup", "mail-first", ["Ready", "True", "Ready"])
        .await?;
    let says = ["NoMembers", "True", "NoMembers"];
    place.wait("ConsumerGroup", "mail-first", says).await?;

    members(&mut place).await?;
    lag(&mut place).await?;
    kept(&mut place).await
}

/// Two members that want different messages.
async fn members(place: &mut Place<'_>) -> anyhow::Result<()> {
    let at = addresses(&place.site);
    let record = place.host.record_file("mail");
    let driver = place.host.driver(Client::V5).await?;
    let member = |id: &str, tags: &str| {
        let start = consume(&at, "mail", "first", &record).with("persistMs", 500);
        start.with("id", id).with("tags", tags)
    };
    driver.ask(member("one", "b||a")).await?;
    let says = ["NoMembers", "False", "Members"];
    place.wait("ConsumerGroup", "mail-first", says).await?;
    let says = ["SubscriptionConflict", "False", "NoConflict"];
    place.wait("ConsumerGroup", "mail-first", says).await?;
    let driver = place.host.driver(Client::V5).await?;
    driver.ask(member("two", "*")).await?;
    let says = ["SubscriptionConflict", "True", "MembersDiffer"];
    let found = place.wait("ConsumerGroup", "mail-first", says).await?;
    let message = condition(&found, "SubscriptionConflict")["message"].to_string();
    ensure!(message.contains("the resource wants"), "{message}");
    until("both members are counted", WAIT, async || {
        let found = place
            .plane
            .get(&place.path("ConsumerGroup", "mail-first"))
            .await?;
        ensure!(
            found["status"]["progress"]["members"] == 2,
            "{}",
            found["status"]
        );
        Ok(())
    })
    .await?;
    let driver = place.host.driver(Client::V5).await?;
    for id in ["one", "two"] {
        driver
            .ask(Command::new("consume-stop").with("id", id))
            .await?;
    }
    Ok(())
}

/// Messages that nobody consumes, and a setting that somebody else changes.
async fn lag(place: &mut Place<'_>) -> anyhow::Result<()> {
    place.send("mail", 50).await?;
    let says = ["LagHigh", "True", "AboveLagAlert"];
    place.wait("ConsumerGroup", "mail-first", says).await?;
    until("the lag is in the status", WAIT, async || {
        let found = place
            .plane
            .get(&place.path("ConsumerGroup", "mail-first"))
            .await?;
        let progress = &found["status"]["progress"];
        let late = progress["lagSeconds"].as_i64().unwrap_or_default();
        ensure!(progress["lagMessages"] == 50 && late >= 1, "{progress}");
        ensure!(progress["members"] == 0, "{progress}");
        Ok(())
    })
    .await?;
    let page = http::get(place.pages, "/metrics").await?;
    let late = page.body.lines().find_map(|line| {
        let rest = line.strip_prefix("gantry_operator_consumer_lag_seconds{")?;
        rest.contains("mail-first").then(|| rest.rsplit_once(' '))?
    });
    ensure!(late.is_some_and(|(_, value)| value != "0"), "{late:?}");
    place
        .admin("updateSubGroup -b BROKER -g mail-first -r 9")
        .await?;
    until("the setting is right again", REPAIRED, async || {
        let words = ["get", "events", "--output=jsonpath={.items[*].reason}"];
        let events = place.kubectl.ok(&words).await?;
        ensure!(events.contains("DriftRepaired"), "{events}");
        let has = place.of_broker("mail-first").await?;
        ensure!(has["retryMaxTimes"] == 3, "{has}");
        Ok(())
    })
    .await
}

/// Switches are the broker's; how far a group is stays, unless the resource says otherwise.
async fn kept(place: &mut Place<'_>) -> anyhow::Result<()> {
    let progress = "consumerProgress -g mail-first";
    let offsets = |text: String| -> Vec<String> {
        let rows = text.lines().filter(|line| line.starts_with("mail "));
        rows.map(|line| {
            line.split_whitespace()
                .take(5)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
    };
    let before = offsets(place.admin(progress).await?);
    ensure!(!before.is_empty(), "no queue of mail-first");
    for (enabled, policy) in [(false, "Retain"), (true, "Retain"), (true, "Delete")] {
        let spec = json!({"consumeEnable": enabled, "deletionPolicy": policy});
        place.put("ConsumerGroup", "mail-first", spec).await?;
        until("the broker has the switch", WAIT, async || {
            let has = place.of_broker("mail-first").await?;
            ensure!(has["consumeEnable"] == enabled, "{has}");
            Ok(())
        })
        .await?;
        let says = ["Ready", "True", "Ready"];
        place.wait("ConsumerGroup", "mail-first", says).await?;
        if !enabled {
            continue;
        }
        place.delete("rkcg", "mail-first").await?;
        place.gone("rkcg", "mail-first").await?;
        let has = place.of_broker("mail-first").await?;
        ensure!(has.is_null() == (policy == "Delete"), "{policy}: {has}");
        let after = offsets(place.admin(progress).await?);
        ensure!(after == before, "{policy}: {after:?} and not {before:?}");
    }
    let spec = json!({"deletionPolicy": "DeleteWithOffsets"});
    place.put("ConsumerGroup", "mail-first", spec).await?;
    let says = ["Ready", "True", "Ready"];
    place.wait("ConsumerGroup", "mail-first", says).await?;
    place.delete("rkcg", "mail-first").await?;
    place.gone("rkcg", "mail-first").await?;
    let left = offsets(place.admin(progress).await?);
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
