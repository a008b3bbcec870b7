use burn::tensor::Device;
use easyedit_core::device::is_cpu;
use easyedit_core::{Error, JointProducts, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Parts of a work that run side by side on a CPU, each on threads of its own: small passes spend half of their time in operations that use
/// one core. On other devices the parts run one after the other.
#[derive(Debug)]
pub struct SideBySide {
    pools: Vec<ThreadPool>,
}

impl SideBySide {
    /// For at most `most` parts of a work on `device`.
    ///
    /// # Errors
    ///
    /// If threads cannot be started.
    pub fn new(device: &Device, most: usize) -> Result<Self> {
        let threads = if is_cpu(device) { rayon::current_num_threads() } else { 1 };
        let count = threads.min(most).max(1);
        let pools = (0..if count > 1 { count } else { 0 })
            .map(|_| ThreadPoolBuilder::new().num_threads(threads / count).build())
            .collect::<std::result::Result<_, _>>()
            .map_err(Error::other)?;
        Ok(Self { pools })
    }

    /// How many parts to make.
    pub fn parts(&self) -> usize {
        self.pools.len().max(1)
    }

    /// Runs `work` on every part at once, and gives the results in the parts' order.
    ///
    /// # Errors
    ///
    /// The first error of a part.
    pub fn run<P: Send, T: Send>(&self, parts: Vec<P>, work: impl Fn(P) -> Result<T> + Sync) -> Result<Vec<T>> {
        if self.pools.is_empty() || parts.len() == 1 {
            return parts.into_iter().map(work).collect();
        }
        let mut results = Vec::with_capacity(parts.len());
        let mut parts = parts.into_iter();
        loop {
            let round: Vec<P> = parts.by_ref().take(self.pools.len()).collect();
            if round.is_empty() {
                return Ok(results);
            }
            let (work, products) = (&work, &JointProducts::among(round.len()));
            let done: Vec<Result<T>> = std::thread::scope(|scope| {
                let running: Vec<_> = round
                    .into_iter()
                    .zip(&self.pools)
                    .map(|(part, pool)| scope.spawn(move || pool.install(|| products.run(|| work(part)))))
                    .collect();
                running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
            });
            for result in done {
                results.push(result?);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_parts_order_and_errors_are_kept() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let side_by_side = SideBySide::new(&device, 3).unwrap();
        assert!((1..=3).contains(&side_by_side.parts()));
        assert_eq!(side_by_side.run((0..7).collect(), |part| Ok(part * 2)).unwrap(), [0, 2, 4, 6, 8, 10, 12]);
        let fail = side_by_side.run(vec![1, 2], |part| if part == 2 { Err(Error::Batch("no".into())) } else { Ok(part) });
        assert_eq!(fail.unwrap_err().to_string(), "no");
    }
}
