use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::matrix::{Place, Weight};
use super::parts::range;
use super::product;

/// How long a thread waits for the others before it goes on without them; they are as far as it is within a fraction of a millisecond.
const PATIENCE: Duration = Duration::from_millis(10);

/// Rows of a thread for which a product together is faster: with more, reading the weight takes less time than waiting for each other.
const ROWS: usize = 20;

/// Numbers of a weight that take longer to read than threads take to meet.
const NUMBERS: usize = 1 << 17;

/// How often in a row threads may be sent off before all go on alone.
const SENT_OFF: usize = 8;

thread_local! {
    static MEETING: RefCell<Option<Arc<Meeting>>> = const { RefCell::new(None) };
}

/// Where threads that run the same layers meet at each weight.
///
/// Every thread brings its rows; when all are there, each multiplies the rows of all with its part of the weight. A thread that comes with
/// another weight, or too many rows, sends those that wait off to go on alone: so do threads that do not run the same layers.
#[derive(Debug)]
pub(in crate::weight_product) struct Meeting(Mutex<Table>);

#[derive(Debug)]
struct Table {
    /// Threads that take part.
    members: usize,
    waiting: Option<Waiting>,
    /// How often in a row those that waited have been sent off.
    sent_off: usize,
}

/// What becomes of those that wait: a product together, or none.
type Decision = Arc<OnceLock<Option<Together>>>;

/// Those that wait at a weight.
#[derive(Debug)]
struct Waiting {
    place: Place,
    members: usize,
    rows: Vec<Row>,
    decision: Decision,
}

/// A row of `x`, and that of `y` it becomes.
#[derive(Clone, Copy, Debug)]
struct Row {
    x: *const [f32],
    y: *mut [f32],
}

// SAFETY: a row is used by other threads only in a product together, as long as its owner takes part: see `Together::take_part`.
unsafe impl Send for Row {}
// SAFETY: as above; each thread writes to columns of its own.
unsafe impl Sync for Row {}

/// A product that is computed together.
#[derive(Debug)]
struct Together {
    members: usize,
    /// Of all members.
    rows: Vec<Row>,
    /// How many members have computed their part.
    done: AtomicUsize,
    failed: AtomicBool,
}

impl Meeting {
    pub(in crate::weight_product) fn new(members: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Table { members, waiting: None, sent_off: 0 })))
    }

    /// Runs `work` as one of the members.
    pub(in crate::weight_product) fn run<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        struct Membership(Option<Arc<Meeting>>);
        impl Drop for Membership {
            fn drop(&mut self) {
                leave();
                MEETING.replace(self.0.take());
            }
        }
        let _membership = Membership(MEETING.replace(Some(self.clone())));
        work()
    }

    /// The product with the others' help; `false` if they do not come, or one of them fails.
    fn product(&self, x: &[&[f32]], weight: Weight<'_>, y: &mut [f32]) -> bool {
        let rows = x.iter().zip(y.chunks_exact_mut(weight.outputs())).map(|(x, y)| Row { x: *x, y });
        let Some((member, decision)) = self.come(rows, weight.place()) else { return false };
        if !wait_until(|| decision.get().is_some(), PATIENCE) {
            self.table().send_off();
            leave();
        }
        // Even now it may be a product: if the last one came in the last moment.
        decision.get().and_then(Option::as_ref).is_some_and(|together| together.take_part(member, weight))
    }

    /// Brings rows to a weight. Gives the number among those there, and what will be decided; `None` if others wait elsewhere.
    fn come(&self, rows: impl ExactSizeIterator<Item = Row>, place: Place) -> Option<(usize, Decision)> {
        let mut table = self.table();
        if table.members < 2 || table.sent_off >= SENT_OFF {
            return None;
        }
        let worth_it = rows.len() <= ROWS && place.numbers() >= NUMBERS;
        if !worth_it || table.waiting.as_ref().is_some_and(|waiting| waiting.place != place) {
            table.send_off();
            return None;
        }
        let new = || Waiting { place, members: 0, rows: Vec::new(), decision: Decision::default() };
        let mut waiting = table.waiting.take().unwrap_or_else(new);
        let member = waiting.members;
        waiting.members += 1;
        waiting.rows.extend(rows);
        let decision = waiting.decision.clone();
        table.put(waiting);
        Some((member, decision))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Lets those who wait begin if all have come.
    fn put(&mut self, waiting: Waiting) {
        match waiting.members {
            come if come < self.members => self.waiting = Some(waiting),
            come => {
                self.sent_off = 0;
                waiting.decide(come > 1);
            }
        }
    }

    /// Lets those who wait go on alone.
    fn send_off(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.sent_off += 1;
            waiting.decide(false);
        }
    }
}

impl Waiting {
    fn decide(self, together: bool) {
        let Self { members, rows, decision, .. } = self;
        let together = together.then_some(Together { members, rows, done: AtomicUsize::new(0), failed: AtomicBool::new(false) });
        // It is decided once: whoever decides has taken it off the table.
        let _ = decision.set(together);
    }
}

/// Goes on without the others for good.
fn leave() {
    let Some(meeting) = MEETING.take() else { return };
    let mut table = meeting.table();
    table.members -= 1;
    if let Some(waiting) = table.waiting.take() {
        table.put(waiting);
    }
}

impl Together {
    /// Computes the part of a member, once, and stays until all have computed theirs; `false` if one has failed.
    fn take_part(&self, member: usize, weight: Weight<'_>) -> bool {
        /// Stays in any case, even in a panic: the others use this thread's rows.
        struct Stay<'a>(&'a Together);
        impl Drop for Stay<'_> {
            fn drop(&mut self) {
                let Self(Together { members, done, failed, .. }) = self;
                failed.fetch_or(std::thread::panicking(), Ordering::Relaxed);
                done.fetch_add(1, Ordering::AcqRel);
                wait_until(|| done.load(Ordering::Acquire) == *members, Duration::MAX);
            }
        }
        let stay = Stay(self);
        let range = range(weight.outputs(), member, self.members);
        // SAFETY: the rows live, and their owners leave them alone, until all members have computed their part, this one included:
        // an owner comes with them and stays until then, or takes them off the table before it goes.
        let x: Vec<&[f32]> = self.rows.iter().map(|row| unsafe { &*row.x }).collect();
        let part = |row: &Row| {
            let len = row.y.len();
            assert!(range.end <= len, "a range of columns lies outside of a row");
            // SAFETY: as above; and the ranges of the members are disjoint, each member's is used once.
            unsafe { std::slice::from_raw_parts_mut(row.y.cast::<f32>().add(range.start), range.len()) }
        };
        product(&x, weight.of_outputs(range.clone()), self.rows.iter().map(part).collect());
        drop(stay);
        !self.failed.load(Ordering::Relaxed)
    }
}

/// Waits for other threads; `false` if it takes longer than `patience`.
fn wait_until(met: impl Fn() -> bool, patience: Duration) -> bool {
    /// Looks before the core is offered to others: some ten microseconds.
    const LOOKS: usize = 500;
    for _ in 0..LOOKS {
        if met() {
            return true;
        }
        std::hint::spin_loop();
    }
    let started = Instant::now();
    loop {
        if met() {
            return true;
        }
        if started.elapsed() > patience {
            return false;
        }
        std::thread::yield_now();
    }
}

/// `x W` or `x Wᵀ`, `[rows, out]`, together with the other members of this thread's meeting if it is a member of one.
pub(super) fn joint_product(x: &[&[f32]], weight: Weight<'_>) -> Vec<f32> {
    let mut y = vec![0.0; x.len() * weight.outputs()];
    let meeting = MEETING.with_borrow(Clone::clone);
    if !meeting.is_some_and(|meeting| meeting.product(x, weight, &mut y)) {
        // A product together that failed may have left something.
        y.fill(0.0);
        product(x, weight, y.chunks_exact_mut(weight.outputs()).collect());
    }
    y
}

#[cfg(test)]
mod tests {
    use super::super::matrix::{Matrix, Numbers};
    use super::*;
    use crate::WeightLayout;

    /// Weights of this width and height are large enough.
    const WIDTH: usize = 380;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| (i * step % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn weights() -> Vec<Vec<f32>> {
        (1..=12).map(|step| numbers(WIDTH * WIDTH, step)).collect()
    }

    fn multiply(x: &[f32], weight: &[f32], layout: WeightLayout) -> Vec<f32> {
        let x: Vec<&[f32]> = x.chunks(WIDTH).collect();
        joint_product(&x, Weight { numbers: Numbers::F32(Matrix::contiguous(weight, WIDTH)), layout })
    }

    /// One after the other, the products of `rows` rows with these weights, both ways: each starts with what the last one made.
    fn chain<'a>(rows: usize, weights: impl IntoIterator<Item = &'a Vec<f32>>) -> Vec<f32> {
        let mut x = numbers(rows * WIDTH, 17);
        for weight in weights {
            for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
                x = multiply(&x, weight, layout).iter().map(|y| y.clamp(-1.0, 1.0)).collect();
            }
        }
        x
    }

    /// Runs each piece of work as a member of one meeting.
    fn meet<T: Send>(work: Vec<Box<dyn FnOnce() -> T + Send + '_>>) -> Vec<std::thread::Result<T>> {
        let meeting = &Meeting::new(work.len());
        std::thread::scope(|scope| {
            let threads: Vec<_> = work.into_iter().map(|work| scope.spawn(move || meeting.run(work))).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        })
    }

    #[test]
    fn together_the_products_are_those_of_a_thread_alone() {
        let weights = weights();
        for rows in [vec![2, 3], vec![11, 12], vec![20, 20], vec![5, 7, 9], vec![4; 7]] {
            let work: Vec<Box<dyn FnOnce() -> _ + Send>> =
                rows.iter().map(|rows| Box::new(|| chain(*rows, &weights)) as Box<dyn FnOnce() -> _ + Send>).collect();
            for (rows, got) in rows.iter().zip(meet(work)) {
                assert!(got.unwrap() == chain(*rows, &weights), "{rows} rows");
            }
        }
    }

    #[test]
    fn members_that_come_in_time_are_helped() {
        let (x, weight) = (numbers(3 * WIDTH, 17), numbers(WIDTH * WIDTH, 3));
        let helped = || {
            let meeting = &Meeting::new(2);
            let product = || {
                let (x, mut y): (Vec<&[f32]>, _) = (x.chunks(WIDTH).collect(), vec![0.0; 3 * WIDTH]);
                let weight = Weight { numbers: Numbers::F32(Matrix::contiguous(&weight, WIDTH)), layout: WeightLayout::OutIn };
                meeting.run(|| meeting.product(&x, weight, &mut y))
            };
            std::thread::scope(|scope| {
                let other = scope.spawn(product);
                [product(), other.join().unwrap()]
            })
        };
        // On a busy machine a thread may come too late.
        assert!((0..100).any(|_| helped() == [true, true]));
    }

    #[test]
    fn members_that_go_their_own_ways_are_right_as_well() {
        let weights = weights();
        let forwards = || chain(9, &weights);
        let backwards = || chain(9, weights.iter().rev());
        let some = || chain(9, weights.iter().step_by(2));
        let many_rows = || chain(ROWS + 1, &weights);
        let none = || chain(9, []);
        let slow = || {
            std::thread::sleep(2 * PATIENCE);
            chain(9, &weights)
        };
        type Work<'a> = &'a (dyn Fn() -> Vec<f32> + Sync);
        let all: [Work<'_>; 6] = [&forwards, &backwards, &some, &many_rows, &none, &slow];
        for other in all {
            for threads in [vec![all[0], other], vec![other, all[1], all[0]]] {
                let boxed = threads.iter().map(|work| Box::new(work) as Box<dyn FnOnce() -> _ + Send>);
                for (work, got) in threads.iter().zip(meet(boxed.collect())) {
                    assert!(got.unwrap() == work());
                }
            }
        }
    }

    #[test]
    fn a_member_that_fails_between_products_does_not_stop_the_others() {
        let weights = weights();
        let work: Vec<Box<dyn FnOnce() -> _ + Send>> = vec![Box::new(|| chain(9, &weights)), Box::new(|| panic!("between two products"))];
        let mut got = meet(work).into_iter();
        assert!(got.next().unwrap().unwrap() == chain(9, &weights));
        assert!(got.next().unwrap().is_err());
    }

    #[test]
    fn a_member_that_fails_in_a_product_lets_the_others_know() {
        let (x, mut y, weight) = (numbers(WIDTH, 17), vec![0.0; WIDTH], numbers(WIDTH * WIDTH, 3));
        let together = &Together {
            members: 2,
            rows: vec![Row { x: &raw const *x, y: &raw mut *y }],
            done: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        };
        let weight = |width| Weight { numbers: Numbers::F32(Matrix::contiguous(&weight, width)), layout: WeightLayout::OutIn };
        let succeeded = std::thread::scope(|scope| {
            // Rows that are shorter than those of `x`.
            let failing = scope.spawn(|| together.take_part(1, weight(WIDTH / 2)));
            (together.take_part(0, weight(WIDTH)), failing.join())
        });
        assert!(matches!(succeeded, (false, Err(_))));
    }
}
