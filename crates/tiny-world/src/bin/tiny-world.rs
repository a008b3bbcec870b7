//! Makes the tiny world: its text and datasets, and the models that know it.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use easyedit_core::Progress;
use easyedit_tiny_world as tiny_world;
use easyedit_tiny_world::training::{TrainingConfig, train};

/// Makes the tiny world: its text and datasets, and the models that know it.
#[derive(Parser)]
struct Arguments {
    /// Train these models anew (`all` for every one); without it only text and datasets are written and the models are asked
    #[arg(long, value_delimiter = ',')]
    retrain: Vec<String>,
    /// Folder to write to
    #[arg(long, default_value_os_t = tiny_world::folder())]
    out: PathBuf,
    /// Training steps
    #[arg(long, default_value_t = TrainingConfig::default().steps)]
    steps: usize,
    /// Learning rate
    #[arg(long, default_value_t = TrainingConfig::default().lr)]
    lr: f64,
    /// Weight decay
    #[arg(long, default_value_t = TrainingConfig::default().weight_decay)]
    weight_decay: f64,
    /// Tokens per step
    #[arg(long, default_value_t = TrainingConfig::default().tokens)]
    tokens: usize,
}

struct Lines {
    start: std::time::Instant,
    step: std::cell::Cell<u64>,
}

impl Progress for Lines {
    fn begin(&self, task: &str, _: Option<u64>) {
        eprintln!("{task}");
    }

    fn advance(&self, steps: u64) {
        self.step.set(self.step.get() + steps);
    }

    fn remark(&self, text: &str) {
        if self.step.get().is_multiple_of(100) {
            eprintln!("step {}: {text} ({:.0} s)", self.step.get(), self.start.elapsed().as_secs_f64());
        }
    }

    fn end(&self) {}
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let world = tiny_world::world();
    tiny_world::save_world(world, &arguments.out)?;
    let all = arguments.retrain.iter().any(|name| name == "all");
    for name in tiny_world::model_names() {
        if !all && !arguments.retrain.iter().any(|wanted| wanted == name) {
            continue;
        }
        let tokenizer = tiny_world::tokenizer(name, world)?;
        let config = TrainingConfig {
            steps: arguments.steps,
            lr: arguments.lr,
            weight_decay: arguments.weight_decay,
            tokens: arguments.tokens,
            ..TrainingConfig::default()
        };
        let progress = Lines { start: std::time::Instant::now(), step: std::cell::Cell::new(0) };
        let model = train(name, world, &tokenizer, &config, &progress)?;
        let accuracy = tiny_world::accuracy(&*model, world.facts())?;
        eprintln!("{name}: {accuracy:?} after {:.0} s", progress.start.elapsed().as_secs_f64());
        tiny_world::save_model(name, &*model, world, &arguments.out.join("models").join(name))?;
    }
    ensure!(all || arguments.retrain.iter().all(|name| tiny_world::model_names().any(|known| known == name)), "unknown model");
    Ok(())
}
