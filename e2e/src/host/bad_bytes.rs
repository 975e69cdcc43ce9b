//! The table of bad input, row by row, against its record.

use anyhow::{Context as _, ensure};

use super::{Against, Row};
use crate::bad_input::{read_table, rows as inputs};
use crate::lab::{Lab, Target};

pub fn rows() -> Vec<Row> {
    vec![(
        "bad_input_is_answered_as_recorded",
        Against::Both,
        |lab, target| Box::pin(as_recorded(lab, target)),
    )]
}

async fn as_recorded(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let table = read_table()?;
    let site = lab.shared(target).await?;
    let mut wrong = Vec::new();
    let inputs = inputs();
    ensure!(
        inputs.len() == table.len(),
        "the record and the rows differ in number"
    );
    for input in inputs {
        let recorded = table.get(input.name);
        let recorded = recorded.with_context(|| format!("{} is not recorded", input.name))?;
        let wanted = match (target, &recorded.gantry) {
            (Target::Gantry, Some(gantry)) => {
                ensure!(
                    recorded.why.is_some(),
                    "{}: it differs without a reason",
                    input.name
                );
                gantry
            }
            _ => &recorded.java,
        };
        let seen = input.observe(&site).await?;
        if seen != *wanted {
            wrong.push(format!("{}: {seen:?}, not {wanted:?}", input.name));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} rows:\n      {}",
        wrong.len(),
        wrong.join("\n      ")
    );
    Ok(())
}
