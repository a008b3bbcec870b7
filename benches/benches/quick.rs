//! The small sections under criterion, on a model of the tiny world: `cargo bench -p easyedit-benches`.

use criterion::{Criterion, criterion_group, criterion_main};
use easyedit_benches::{Workload, WorkloadOptions, chosen};

const MODEL: &str = "tiny-world-llama";
/// Sections that take milliseconds.
const SMALL: [&str; 6] = ["forward", "rome-edit", "memit-1", "moments-1", "moments-5", "evaluate-100"];

fn sections(criterion: &mut Criterion) {
    let options = WorkloadOptions { tokens: 2_000, ..WorkloadOptions::default() };
    let workload = match Workload::load(MODEL, options) {
        Ok(workload) => workload,
        Err(error) => {
            println!("skipped: {error:#}");
            return;
        }
    };
    let mut group = criterion.benchmark_group(MODEL);
    group.sample_size(10);
    for name in SMALL {
        for section in chosen(MODEL, &[name.to_owned()]) {
            match section.prepare(&workload) {
                Ok(mut timed) => {
                    group.bench_function(name, |bencher| bencher.iter(&mut timed));
                }
                Err(error) => println!("skipped: {name}: {error:#}"),
            }
        }
    }
    group.finish();
}

criterion_group!(benches, sections);
criterion_main!(benches);
