//! Random edits over all models, types and methods of the tiny world: applied to a checkpoint and taken back out of it with `--base`, the bytes have to
//! be those from before. `cargo xtask revert-check --count 1000 --seed 0`.

#[path = "../tests/there_and_back/mod.rs"]
mod there_and_back;

use std::collections::BTreeMap;
use std::process::ExitCode;

use easyedit::models::{Way, WeightType};
use easyedit_tiny_world as tiny_world;
use there_and_back::{Outcome, Result, Workshop};

/// Methods that change weights.
const METHODS: [&str; 8] = ["ROME", "MEMIT", "EMMET", "PMET", "AlphaEdit", "FT", "LoRA", "KN"];
const TYPES: [WeightType; 3] = [WeightType::F32, WeightType::F16, WeightType::Bf16];
/// Facts of one round trip are at most so many.
const MOST_FACTS: usize = 3;

/// Round trips of one kind.
#[derive(Default)]
struct Row {
    same: usize,
    /// Of the weights, those that come back bit for bit without the base.
    exact: usize,
    weights: usize,
    different: usize,
    not_edited: usize,
}

fn main() -> Result<ExitCode> {
    let (mut count, mut random) = (100, Random(0));
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok()).ok_or(format!("{flag} needs a number"))?;
        match flag.as_str() {
            "--count" => count = value,
            "--seed" => random = Random(value),
            other => return Err(format!("there is no flag {other}, only --count N and --seed N").into()),
        }
    }
    let (models, requests) = (tiny_world::model_names().collect::<Vec<_>>(), tiny_world::requests());
    let workshop = Workshop::new()?;
    let mut rows: BTreeMap<(&str, &str), Row> = BTreeMap::new();
    let (mut done, mut drawn) = (0, 0);
    // Some methods edit no encoder-decoder: what is not edited does not count, and cannot be all.
    while done < count && drawn < 10 * count {
        drawn += 1;
        let (model, method, kind) = (*random.of(&models), *random.of(&METHODS), *random.of(&TYPES));
        let facts: Vec<_> = (0..=random.below(MOST_FACTS)).map(|_| random.of(&requests).clone()).collect();
        let row = rows.entry((method, kind.name())).or_default();
        match workshop.there_and_back(model, kind, method, &facts)? {
            Outcome::Same(ways) => {
                row.same += 1;
                row.weights += ways.len();
                row.exact += ways.iter().filter(|way| **way != Way::Subtracted).count();
                done += 1;
            }
            Outcome::NotEdited(why) => {
                if row.not_edited == 0 {
                    println!("{method} {model} {}, not edited: {why}", kind.name());
                }
                row.not_edited += 1;
            }
            Outcome::Different(why) => {
                println!("{method} {model} {} {:?}: {why}", kind.name(), facts.iter().map(|fact| fact.case_id).collect::<Vec<_>>());
                row.different += 1;
                done += 1;
            }
        }
    }
    println!("{:<10} {:<5} {:>6} {:>10} {:>10} {:>28}", "method", "type", "same", "different", "no edit", "exact without the base");
    for ((method, kind), row) in &rows {
        let exact = format!("{} of {} weights", row.exact, row.weights);
        println!("{method:<10} {kind:<5} {:>6} {:>10} {:>10} {exact:>28}", row.same, row.different, row.not_edited);
    }
    let different: usize = rows.values().map(|row| row.different).sum();
    println!("{done} edits applied and reverted, {different} of them with other bytes than before");
    Ok(if different == 0 && done == count { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}
