//! What gateways tell each other of the budgets that they have together, by way of Redis.
//!
//! A Redis that was emptied, or has lost a budget, says another epoch than the one in which this gateway has heard of others.
//! Then it is given back what is remembered of them before anything is asked: nobody's use is forgotten by it. What they were
//! heard to use after that was remembered decides besides, until they tell it again.

use redis::Cmd;

use super::settling::PATIENCE;
use super::{Shared, millis};
use crate::store::budgets::{Answer, Report, Taken};
use crate::store::redis::Away;

/// What a report is answered, and what each of the others has.
struct Told {
    answer: Answer,
    epoch: String,
    entries: Vec<(String, String)>,
}

impl Shared {
    /// Tells what this gateway has of budgets, and returns what others have of them.
    pub(super) async fn report(&self, reports: &mut [Report]) -> Result<Vec<Answer>, Away> {
        let mut told = self.report_once(reports).await?;
        let answers: Vec<_> = told.iter().map(|told| told.answer).collect();
        if are_lost(&answers) {
            self.restore(reports, &answers).await?;
            told = self.report_once(reports).await?;
        }
        for (report, told) in reports.iter().zip(&mut told) {
            if told.answer.is_lost {
                return Err(Away);
            }
            report.heard(&told.epoch, std::mem::take(&mut told.entries));
        }
        Ok(told.into_iter().map(|told| told.answer).collect())
    }

    async fn report_once(&self, reports: &[Report]) -> Result<Vec<Told>, Away> {
        let mut command = self.function("report");
        command.arg(reports.len());
        for report in reports {
            command.arg(key(report));
        }
        command.arg(self.now());
        command.arg(self.budgets.ledger().unwrap_or_default());
        for report in reports {
            tell(&mut command, report);
        }
        let reply: Vec<Vec<u8>> = self.redis.call_within(&command, PATIENCE).await?;
        let mut parts = reply
            .into_iter()
            .map(|part| String::from_utf8_lossy(&part).into_owned());
        let told: Option<Vec<_>> = reports.iter().map(|_| read(&mut parts)).collect();
        told.ok_or(Away)
    }

    /// Brings back what was remembered of others, of each budget that was lost.
    pub(super) async fn restore(
        &self,
        reports: &mut [Report],
        answers: &[Answer],
    ) -> Result<(), Away> {
        let lost = reports.iter_mut().zip(answers);
        for (report, _) in lost.filter(|(_, answer)| answer.is_lost) {
            let mut command = self.function("restore");
            command.arg(1).arg(key(report));
            let ledger = self.budgets.ledger().unwrap_or_default();
            command.arg(format!("{ledger} {}", report.number));
            command.arg(millis(report.kept_for));
            for (ledger, entry) in report.remembered() {
                command.arg(ledger).arg(entry);
            }
            let epoch: String = self.redis.call(&command).await?;
            report.restored(&epoch, self.date());
        }
        Ok(())
    }
}

/// Returns whether any of these budgets is not the one that was heard of before.
pub(super) fn are_lost(answers: &[Answer]) -> bool {
    answers.iter().any(|answer| answer.is_lost)
}

/// Returns where gateways tell what they have of a budget.
pub(super) fn key(report: &Report) -> String {
    format!("weir:{{limits}}:1:budget:{}", report.name)
}

/// Adds a report to the arguments of a function.
pub(super) fn tell(command: &mut Cmd, report: &Report) {
    command.arg(report.number).arg(report.own.used);
    command.arg(report.own.reserved).arg(report.want);
    command.arg(report.size).arg(report.period);
    let counts_for = report.counts_for.unwrap_or_default();
    command.arg(millis(counts_for)).arg(millis(report.kept_for));
    command.arg(report.epoch()).arg(report.others_floor);
}

/// Reads what the functions say of budgets.
pub(super) fn answers(numbers: &[i64], is_noted: bool) -> Option<Vec<Answer>> {
    let answers = numbers.chunks(3).map(|numbers| {
        let [state, used, reserved] = *numbers else {
            return None;
        };
        answer(state, used, reserved, is_noted)
    });
    answers.collect()
}

fn answer(state: i64, used: i64, reserved: i64, is_noted: bool) -> Option<Answer> {
    Some(Answer {
        others: Taken {
            used: u64::try_from(used).ok()?,
            reserved: u64::try_from(reserved).ok()?,
        },
        is_spent: state == 1,
        is_lost: state == 2,
        is_noted,
    })
}

/// Reads what is said of one report.
fn read(parts: &mut impl Iterator<Item = String>) -> Option<Told> {
    let mut number = || parts.next()?.parse::<i64>().ok();
    let (state, used, reserved) = (number()?, number()?, number()?);
    let epoch = parts.next()?;
    let others: usize = parts.next()?.parse().ok()?;
    let entries = (0..others).map(|_| Some((parts.next()?, parts.next()?)));
    Some(Told {
        entries: entries.collect::<Option<_>>()?,
        answer: answer(state, used, reserved, true)?,
        epoch,
    })
}
