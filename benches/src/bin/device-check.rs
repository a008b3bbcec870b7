//! Holds a device against the CPU and golden values; `cargo xtask device-check` builds this with the device's feature and runs it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use easyedit_benches::data_folder;
use easyedit_benches::device_check::{Check, GROUPS, Options, Tolerances, golden_value, golden_value_file, run};
use serde_json::json;

#[derive(Parser)]
#[command(name = "device-check", about = "Hold a device against the CPU and golden values")]
struct Arguments {
    /// Device: cpu, cuda, cuda:N, wgpu or tch
    #[arg(long, default_value = "cpu")]
    device: String,
    /// The repository's folder `data`
    #[arg(long, default_value_os_t = data_folder())]
    data: PathBuf,
    /// Only these checks: operations, golden, value, rome
    #[arg(long, value_delimiter = ',', value_parser = GROUPS)]
    only: Vec<String>,
    /// One JSON line a check
    #[arg(long)]
    json: bool,
    /// Store the CPU's optimised values as the golden ones, and end
    #[arg(long)]
    write_golden: bool,
}

fn main() -> ExitCode {
    match start(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(arguments: &Arguments) -> Result<bool> {
    let options = Options { data: arguments.data.clone(), groups: arguments.only.clone(), ..Options::new(&arguments.device) };
    if arguments.write_golden {
        write_golden(&options)?;
        return Ok(true);
    }
    // A driver may print or end the process: everything is shown at once.
    std::panic::set_hook(Box::new(|_| {}));
    let json = arguments.json;
    if !json {
        let Tolerances { operation, golden, value, edit } = Tolerances::of(&options.device);
        println!(
            "device {}: tolerances {operation:.0e} (operations, relative), {golden:.0e} (golden), {value:.0e} (value), {edit:.0e} (rome)",
            options.device
        );
        println!("\n{:<11} {:<38} {:>10} {:>10}", "check", "", "largest", "result");
    }
    let (mut made, mut passed) = (0, 0);
    let mut before = |group: &str, name: &str| {
        if !json {
            print!("{group:<11} {name:<38} ");
            let _ = std::io::stdout().flush();
        }
    };
    let mut after = |check: &Check| {
        made += 1;
        passed += usize::from(check.passes());
        let result = if check.passes() { "passes" } else { "FAILS" };
        match (json, &check.failure) {
            (true, _) => {
                // JSON has no infinity.
                let difference = check.difference.is_finite().then_some(check.difference);
                println!(
                    "{}",
                    json!({"device": arguments.device, "group": check.group, "name": check.name, "difference": difference,
                           "tolerance": check.tolerance, "failure": check.failure, "passes": check.passes()})
                );
            }
            (false, None) => println!("{:>10.1e} {result:>10}", check.difference),
            (false, Some(failure)) => println!("{:>10} {result:>10}  {}", "-", failure.lines().next().unwrap_or_default()),
        }
    };
    let sound = run(&options, &mut before, &mut after)?;
    if !json {
        println!("\n{passed} of {made} checks pass");
    }
    Ok(sound)
}

fn write_golden(options: &Options) -> Result<()> {
    if options.device != "cpu" {
        bail!("golden values are the CPU's");
    }
    let cpu = easyedit::device::select("cpu")?;
    let values = options.models.iter().map(|model| golden_value(&options.data, model, &cpu)).collect::<Result<Vec<_>>>()?;
    let file = golden_value_file(&options.data);
    let text: Vec<String> = values.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    easyedit::write_atomically(&file, |out| writeln!(out, "[\n{}\n]", text.join(",\n")))
        .with_context(|| format!("cannot store {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}
