//! Makes the tiny world: its text and datasets, and the models that know it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use easyedit_core::{LanguageModel, Progress};
use easyedit_models::Checkpoint;
use easyedit_tiny_world::{self as tiny_world, TrainingConfig};
use indicatif::{ProgressBar, ProgressStyle};

/// Makes the tiny world: its text and datasets, and the models that know it
#[derive(Parser)]
#[command(name = "cargo xtask tiny-world")]
struct Arguments {
    /// Train these models anew from their seeds (`all`: every one); without it nothing is trained
    #[arg(long, value_name = "MODEL", value_delimiter = ',')]
    retrain: Vec<String>,
    /// Folder to write to
    #[arg(long, value_name = "DIR", default_value_os_t = tiny_world::folder())]
    out: PathBuf,
    /// Training steps instead of the model's own number
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Seed of the weights and of the order of sentences
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Models of which a smaller one is made for methods that train another model.
const UNTRAINED: [&str; 3] = ["gpt2", "llama", "t5"];

/// A bar on standard error.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn begin(&self, task: &str, total: Option<u64>) {
        self.0.set_length(total.unwrap_or(0));
        self.0.set_message(task.to_owned());
    }

    fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }

    fn remark(&self, text: &str) {
        self.0.set_prefix(text.to_owned());
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let all = arguments.retrain.iter().any(|name| name == "all");
    if let Some(unknown) = arguments.retrain.iter().find(|name| *name != "all" && !tiny_world::model_names().any(|known| known == *name)) {
        bail!("there is no model {unknown:?} (there are: {})", tiny_world::model_names().collect::<Vec<_>>().join(", "));
    }
    let world = tiny_world::world();
    tiny_world::save_world(world, &arguments.out)?;
    tiny_world::save_untrained(&UNTRAINED, world, &arguments.out)?;
    println!("{} facts, {} sentences in {}", world.facts().len(), world.sentences().len(), arguments.out.display());
    for name in tiny_world::model_names().filter(|name| all || arguments.retrain.iter().any(|wanted| wanted == name)) {
        let mut config = TrainingConfig::of(name)?;
        config.steps = arguments.steps.unwrap_or(config.steps);
        config.seed = arguments.seed.unwrap_or(config.seed);
        let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {prefix} {elapsed} ETA {eta}")?;
        let started = Instant::now();
        let tokenizer = tiny_world::tokenizer(name, world)?;
        let model = tiny_world::train(name, world, &tokenizer, &config, &Bar(ProgressBar::new(0).with_style(style)))?;
        tiny_world::save_model(name, &*model, &config, &arguments.out)?;
        println!("{name}: trained in {:.0} s", started.elapsed().as_secs_f64());
    }
    let device = easyedit_core::device::select("cpu")?;
    for name in tiny_world::model_names() {
        let folder = tiny_world::model_folder_in(name, &arguments.out)?;
        if !folder.is_dir() {
            println!("{name:<14} not trained");
            continue;
        }
        let model = Checkpoint::open(&folder)?.load(&device)?;
        let accuracy = tiny_world::accuracy(&*model, world.facts())?;
        let count = parameters(&*model)?;
        println!("{name:<14} {count:>7} parameters, facts {:.3}, held-out paraphrases {:.3}", accuracy.facts, accuracy.held_out);
    }
    Ok(())
}

fn parameters(model: &dyn LanguageModel) -> Result<usize> {
    let sizes =
        model.parameter_names().iter().map(|name| Ok(model.weight(name)?.dims().iter().product::<usize>())).collect::<Result<Vec<_>>>()?;
    Ok(sizes.iter().sum())
}
