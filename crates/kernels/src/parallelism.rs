//! How factorizations are shared out over threads.

use std::sync::Once;

use faer::Par;

/// Parts that a factorization is cut into. The cut decides the last bits of the result, so it does not follow the number of threads.
const PARTS: usize = 16;

/// Makes the results of faer's factorizations independent of the number of threads, for the whole process. To be called before the first.
pub(crate) fn fix_parts() {
    static FIXED: Once = Once::new();
    FIXED.call_once(|| faer::set_global_parallelism(Par::rayon(PARTS)));
}
