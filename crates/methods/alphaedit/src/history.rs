use std::collections::HashMap;
use std::sync::Arc;

use easyedit_core::Fingerprint;

/// The keys of the edits that are in a weight, the newest first.
#[derive(Debug)]
struct Edits {
    keys: Vec<Vec<f64>>,
    before: Option<Arc<Edits>>,
}

/// Which edits are in which weight, known by its fingerprint: a model whose edit was taken back has its earlier keys again, and one that
/// was never edited has none.
#[derive(Debug, Default)]
pub(crate) struct History {
    edits: HashMap<Fingerprint, Arc<Edits>>,
}

impl History {
    /// The keys of the edits in the weight, `[d_mlp]` each.
    pub(crate) fn keys(&self, weight: &Fingerprint) -> Vec<&[f64]> {
        let mut found = Vec::new();
        let mut edits = self.edits.get(weight);
        while let Some(one) = edits {
            found.extend(one.keys.iter().map(Vec::as_slice));
            edits = one.before.as_ref();
        }
        found
    }

    /// Notes that an edit with these keys made the weight `after` of the weight `before`.
    pub(crate) fn add(&mut self, before: &Fingerprint, after: Fingerprint, keys: Vec<Vec<f64>>) {
        let before = self.edits.get(before).cloned();
        self.edits.insert(after, Arc::new(Edits { keys, before }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use easyedit_core::Matrix;

    #[test]
    fn keys_follow_the_weight() {
        let device = easyedit_core::device::select("cpu").unwrap();
        let weight = |v: f32| Fingerprint::of(&Matrix::row(vec![v]).to_tensor(&device)).unwrap();
        let mut history = History::default();
        history.add(&weight(0.0), weight(1.0), vec![vec![1.0], vec![2.0]]);
        history.add(&weight(1.0), weight(2.0), vec![vec![3.0]]);
        history.add(&weight(0.0), weight(3.0), vec![vec![4.0]]);
        assert_eq!(history.keys(&weight(2.0)), [[3.0], [1.0], [2.0]]);
        assert_eq!(history.keys(&weight(1.0)), [[1.0], [2.0]]);
        assert_eq!(history.keys(&weight(3.0)), [[4.0]]);
        assert!(history.keys(&weight(0.0)).is_empty());
    }
}
