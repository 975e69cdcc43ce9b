//! The compatibility stage: each official client makes each call of the table ([`checks`]), against
//! Gantry or the Java broker; what it sees decides. All cells of the matrix run at once
//! ([`matrix`]), then each is a test of the [`runner`].

pub mod checks;
pub mod matrix;
pub mod program;
mod page;
mod witness;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::lab::{Lab, Target};
use crate::runner::{self, Test};
use checks::Cell;
use matrix::Results;
use program::Outcome;

#[derive(Debug, Args)]
pub struct Options {
    /// The binary under test; without it the one that lies beside this program
    #[arg(long)]
    gantry: Option<PathBuf>,
    /// Run against the Java broker, and record what it gives when nothing is filtered
    #[arg(long)]
    java: bool,
    /// Write the page instead of comparing it
    #[arg(long)]
    write: bool,
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// What the tests look at.
#[derive(Debug)]
struct Ran {
    lab: Lab,
    results: Results,
    write: bool,
}

pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let gantry = match options.gantry {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("gantry"),
    };
    let (prefix, target) = if options.java {
        ("reference", Target::Java)
    } else {
        ("compat", Target::Gantry)
    };
    let filter = options.filter.as_deref();
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    let cells: Vec<Cell> = checks::cells()
        .filter(|cell| wanted(&name(prefix, cell)))
        .collect();
    let mut lab = Lab::new(Some(gantry), 1)?;
    let results = matrix::run(&mut lab, target, &cells, false).await?;
    if options.java && filter.is_none() {
        page::record(&results)?;
    }
    let mut tests: Vec<Test<Ran>> = cells.iter().map(|cell| test(prefix, *cell)).collect();
    tests.push(Test {
        name: format!("{prefix}::negatives"),
        run: Box::new(move |ran| Box::pin(negatives(ran, target))),
    });
    if !options.java && filter.is_none() {
        tests.push(Test {
            name: "compat::the_page_is_what_the_run_gave".to_owned(),
            run: Box::new(|ran| Box::pin(async move { the_page(ran) })),
        });
    }
    let mut ran = Ran {
        lab,
        results,
        write: options.write,
    };
    Ok(runner::run(&mut ran, &tests, filter).await?.code())
}

fn name(prefix: &str, (client, check): &Cell) -> String {
    format!("{prefix}::{}::{}", client.id(), check.id)
}

fn test(prefix: &str, cell: Cell) -> Test<Ran> {
    let (client, check) = cell;
    Test {
        name: name(prefix, &cell),
        run: Box::new(move |ran| {
            let ended = ran.results.get(&(client, check.id));
            let passed = ended
                .context("it has not run")
                .and_then(matrix::Ended::passed);
            Box::pin(async move { passed })
        }),
    }
}

/// Each check fails, by what it sees, when what it needs is taken away.
async fn negatives(ran: &mut Ran, target: Target) -> anyhow::Result<()> {
    let cells: Vec<Cell> = checks::cells().collect();
    let results = matrix::run(&mut ran.lab, target, &cells, true).await?;
    let wrong = |(cell, ended): (&(checks::Client, &str), &matrix::Ended)| {
        let (client, check) = cell;
        (ended.outcome != Outcome::Differs).then(|| {
            format!(
                "{}::{check} {:?} {}",
                client.id(),
                ended.outcome,
                ended.reason
            )
        })
    };
    let wrong: Vec<String> = results.iter().filter_map(wrong).collect();
    ensure!(wrong.is_empty(), "they don't fail as they must: {wrong:#?}");
    Ok(())
}

fn the_page(ran: &Ran) -> anyhow::Result<()> {
    if ran.write {
        return page::write(&ran.results);
    }
    page::compare(&ran.results)
}
