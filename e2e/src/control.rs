//! The control stage: the operator as a process of this machine against a real API server, with
//! the garbage collector and the StatefulSet controller, but without nodes.
//!
//! - [`plane`]: etcd, API server, controller manager; the operator with the rights that the chart
//!   gives it
//! - [`proxy`]: stands between operator and API server, counts calls and kills at one of them
//! - [`nodes`]: plays the kubelets, the volumes and the brokers: pods become Ready
//! - [`install`]: by Helm, by one file, and away again
//! - [`life`]: a BrokerCluster becomes Ready, changes, and goes
//! - [`declared`]: Topics and ConsumerGroups of existing servers, Gantry's and the official ones
//! - [`many`]: as many Topics as a large installation has
//! - [`crash`]: an operator killed before and after each of its calls
//! - [`quiet`]: what an operator writes when nothing changes, and when it is not the leader

pub mod plane;
pub mod proxy;
pub mod nodes;
mod install;
mod life;
mod declared;
mod many;
mod crash;
mod quiet;

use std::path::PathBuf;

use self::plane::Plane;
use crate::gantry::Gantry;
use crate::lab::{self, Target};
use crate::runner::{Running, Test};

#[derive(Debug)]
pub struct Lab {
    pub gantry: Gantry,
    /// Started by the first test; its namespaces keep tests apart.
    plane: Option<Plane>,
    quiet: Vec<quiet::Watch>,
    /// Servers and clients without Kubernetes.
    host: lab::Lab,
    /// Last, so that it outlives the processes that write in it.
    dir: tempfile::TempDir,
}

impl Lab {
    pub fn new(gantry: PathBuf) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("gantry-control-")
            .tempdir()?;
        Ok(Self {
            host: lab::Lab::new(Some(gantry.clone()), 0)?,
            gantry: Gantry(gantry),
            plane: None,
            quiet: Vec::new(),
            dir,
        })
    }

    pub async fn plane(&mut self) -> anyhow::Result<&Plane> {
        if self.plane.is_none() {
            let dir = self.dir.path().join("plane");
            self.plane = Some(Plane::start(&dir, &self.gantry).await?);
        }
        Ok(self.plane.as_ref().expect("made above"))
    }
}

type Row = (&'static str, fn(&mut Lab) -> Running<'_>);

/// The first two begin to watch what the last one judges, five minutes later.
pub fn tests() -> Vec<Test<Lab>> {
    let rows: Vec<Row> = vec![
        ("a_settled_cluster_is_left_alone", |lab| {
            Box::pin(quiet::settled(lab))
        }),
        ("many_topics_fit_in_little_memory", |lab| {
            Box::pin(many::topics(lab))
        }),
        ("a_stale_operator_writes_nothing", |lab| {
            Box::pin(quiet::stale(lab))
        }),
        ("one_file_installs_what_the_chart_renders", |lab| {
            Box::pin(install::one_file(lab))
        }),
        ("wrong_values_of_the_chart_are_refused", |lab| {
            Box::pin(install::values(lab))
        }),
        ("an_uninstall_leaves_nothing_but_volumes", |lab| {
            Box::pin(install::and_uninstall(lab))
        }),
        (
            "a_change_stops_at_a_pod_that_does_not_become_ready",
            |lab| Box::pin(life::blocked(lab)),
        ),
        ("what_belongs_to_others_is_left_alone", |lab| {
            Box::pin(life::taken(lab))
        }),
        ("an_operator_killed_at_any_call_converges", |lab| {
            Box::pin(crash::of_a_cluster(lab))
        }),
        ("topics_survive_an_operator_killed_at_any_call", |lab| {
            Box::pin(crash::of_what_is_declared(lab))
        }),
        ("topics_of_gantry_are_as_declared", |lab| {
            Box::pin(declared::topics(lab, Target::Gantry))
        }),
        ("topics_of_java_are_as_declared", |lab| {
            Box::pin(declared::topics(lab, Target::Java))
        }),
        ("what_is_asked_of_brokers_is_signed", |lab| {
            Box::pin(declared::signed(lab))
        }),
        ("a_namespace_goes_with_what_it_declares", |lab| {
            Box::pin(declared::with_namespace(lab))
        }),
        ("a_topic_of_gantry_shrinks_when_it_is_read", |lab| {
            Box::pin(declared::shrinks(lab, Target::Gantry))
        }),
        ("a_topic_of_java_shrinks_when_it_is_read", |lab| {
            Box::pin(declared::shrinks(lab, Target::Java))
        }),
        ("groups_of_gantry_tell_members_and_lag", |lab| {
            Box::pin(declared::groups(lab, Target::Gantry))
        }),
        ("groups_of_java_tell_members_and_lag", |lab| {
            Box::pin(declared::groups(lab, Target::Java))
        }),
        ("nothing_is_written_in_five_minutes", |lab| {
            Box::pin(quiet::judged(lab))
        }),
    ];
    let test = |(name, run): Row| Test {
        name: format!("control::{name}"),
        run: Box::new(move |lab: &mut Lab| run(lab)),
    };
    rows.into_iter().map(test).collect()
}
