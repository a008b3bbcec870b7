use easyedit_core::device::is_cpu;
use easyedit_core::{Error, JointProducts, LanguageModel, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Two groups of this many tokens on two cores are faster than one of both; smaller ones read the weights for too few products.
const TOKENS_PER_GROUP: usize = 8;

/// Contexts shared out over the cores of a CPU: each group is run and differentiated on threads of its own, because small passes
/// spend half of their time in operations that use one core. On other devices there is one group.
#[derive(Debug)]
pub(crate) struct RowGroups {
    rows: Vec<Vec<usize>>,
    pools: Vec<ThreadPool>,
}

impl RowGroups {
    /// Groups of about as many tokens each, of rows with these lengths.
    pub(crate) fn new(model: &dyn LanguageModel, lengths: &[usize]) -> Result<Self> {
        let threads = if is_cpu(&model.device()) { rayon::current_num_threads() } else { 1 };
        let tokens: usize = lengths.iter().sum();
        let count = threads.min(tokens / TOKENS_PER_GROUP).clamp(1, lengths.len().max(1));
        let pools = (0..if count > 1 { count } else { 0 })
            .map(|_| ThreadPoolBuilder::new().num_threads(threads / count).build())
            .collect::<std::result::Result<_, _>>()
            .map_err(Error::other)?;
        Ok(Self { rows: share_out(lengths, count), pools })
    }

    /// The rows of each group.
    pub(crate) fn rows(&self) -> &[Vec<usize>] {
        &self.rows
    }

    /// Runs `work` for every group at once, and gives the results in the groups' order.
    pub(crate) fn run<G: Send, T: Send>(&self, groups: &mut [G], work: impl Fn(&mut G) -> Result<T> + Sync) -> Result<Vec<T>> {
        if self.pools.is_empty() {
            return groups.iter_mut().map(work).collect();
        }
        let (work, products) = (&work, &JointProducts::among(groups.len().min(self.pools.len())));
        std::thread::scope(|scope| {
            let running: Vec<_> = groups
                .iter_mut()
                .zip(&self.pools)
                .map(|(group, pool)| scope.spawn(move || pool.install(|| products.run(|| work(group)))))
                .collect();
            running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }
}

/// Longest rows first, each to the group with the fewest tokens; within a group, rows keep their order.
fn share_out(lengths: &[usize], groups: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|row| (std::cmp::Reverse(lengths[*row]), *row));
    let mut shares: Vec<(usize, Vec<usize>)> = vec![(0, Vec::new()); groups];
    for row in order {
        if let Some((tokens, rows)) = shares.iter_mut().min_by_key(|(tokens, _)| *tokens) {
            *tokens += lengths[row];
            rows.push(row);
        }
    }
    shares
        .into_iter()
        .map(|(_, mut rows)| {
            rows.sort_unstable();
            rows
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_out_evenly_and_each_once() {
        assert_eq!(share_out(&[7, 7, 7, 1], 2), [vec![0, 2], vec![1, 3]]);
        let shares = share_out(&[3, 9, 4, 4, 1, 1], 3);
        let mut all: Vec<usize> = shares.concat();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5]);
        assert_eq!(share_out(&[5], 1), [vec![0]]);
    }
}
