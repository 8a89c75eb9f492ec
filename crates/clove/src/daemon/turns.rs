//! Whose turn it is: everybody who has something for the loop gets the same share of its time, however many connections
//! they have and however much they send.
//!
//! Start-time fair queuing (Goyal, Vin, Cheng 1996) by the time that was really spent: each caller has a clock of its
//! own, which goes on by what it has used; the one whose clock is furthest behind is next. A caller that had nothing to
//! say starts at the present, so it can't save up time, and it comes before all who have been at it. Within one
//! caller, its connections take turns.

use super::connection::Party;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// Books of callers with nothing to do are thrown away when there are so many.
const MOST_IDLE: usize = 1_024;

/// Something to be done for a caller, `T` says what.
pub struct Turns<T> {
    callers: HashMap<Party, Share<T>>,
    /// Those with something to do, by their clocks; the number keeps the order of those that are equal.
    ready: BTreeSet<(u64, u64, Party)>,
    /// The clock of whoever had the last turn.
    now: u64,
    /// The clock that is furthest on.
    latest: u64,
    next: u64,
}

struct Share<T> {
    clock: u64,
    /// Its place in `ready`.
    place: Option<(u64, u64, Party)>,
    todo: VecDeque<T>,
    held: bool,
}

impl<T> Turns<T> {
    pub fn new() -> Turns<T> {
        Turns { callers: HashMap::new(), ready: BTreeSet::new(), now: 0, latest: 0, next: 0 }
    }

    /// Nobody waits for a turn.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Asks for a turn. One thing is asked for once; whoever asks keeps count.
    pub fn ask(&mut self, caller: Party, what: T) {
        if self.callers.len() > MOST_IDLE + self.ready.len() {
            let now = self.now;
            self.callers.retain(|_, s| !s.todo.is_empty() || s.clock > now || s.held);
        }
        let share = self.callers.entry(caller).or_insert(Share {
            clock: 0,
            place: None,
            todo: VecDeque::new(),
            held: false,
        });
        share.todo.push_back(what);
        self.file(caller);
    }

    /// Whether the next turn is one of somebody who owes nothing: who was silent, not one who has been at it.
    pub fn next_is_fresh(&self) -> Option<bool> {
        self.ready.first().map(|place| place.0 <= self.now)
    }

    /// Takes the next turn. To be followed by [`Turns::used`].
    pub fn take(&mut self) -> Option<(Party, T)> {
        let place = self.ready.pop_first()?;
        let caller = place.2;
        self.now = self.now.max(place.0);
        let share = self.callers.get_mut(&caller)?;
        share.place = None;
        share.todo.pop_front().map(|what| (caller, what))
    }

    /// The caller's turn has cost `ns` nanoseconds.
    pub fn used(&mut self, caller: Party, ns: u64) {
        if let Some(s) = self.callers.get_mut(&caller) {
            s.clock = s.clock.max(self.now).saturating_add(ns);
            self.latest = self.latest.max(s.clock);
            if let Some(place) = s.place.take() {
                self.ready.remove(&place);
            }
        }
        self.file(caller);
        if self.ready.is_empty() {
            // Nobody had to wait for what was used.
            self.now = self.latest;
        }
    }

    /// It gets no turn until it is let go.
    pub fn hold(&mut self, caller: Party) {
        if let Some(s) = self.callers.get_mut(&caller) {
            s.held = true;
            if let Some(place) = s.place.take() {
                self.ready.remove(&place);
            }
        }
    }

    /// It may go on.
    pub fn let_go(&mut self, caller: Party) {
        if let Some(s) = self.callers.get_mut(&caller) {
            s.held = false;
        }
        self.file(caller);
    }

    fn file(&mut self, caller: Party) {
        let Some(s) = self.callers.get_mut(&caller) else { return };
        if s.place.is_some() || s.held || s.todo.is_empty() {
            return;
        }
        s.clock = s.clock.max(self.now);
        let place = (s.clock, self.next, caller);
        self.next += 1;
        s.place = Some(place);
        self.ready.insert(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(n: u64) -> Party {
        Party::Cell(n)
    }

    /// Takes one turn; whoever it was asks again.
    fn turn(t: &mut Turns<u32>, ns: u64) -> Option<(Party, u32)> {
        let (who, what) = t.take()?;
        t.ask(who, what);
        t.used(who, ns);
        Some((who, what))
    }

    #[test]
    fn many_connections_are_no_larger_share() {
        let mut t = Turns::new();
        for n in 0..60 {
            t.ask(cell(1), n);
        }
        t.ask(cell(2), 100);
        let turns: Vec<_> = (0..600).filter_map(|_| turn(&mut t, 10)).collect();
        assert_eq!(turns.iter().filter(|(who, _)| *who == cell(2)).count(), 300);
        // And within a caller, each connection has its turn.
        let each = |n| turns.iter().filter(|(_, what)| *what == n).count();
        assert!((0..60).all(|n| each(n) == 5), "{turns:?}");
    }

    #[test]
    fn dear_calls_mean_fewer_of_them() {
        let mut t = Turns::new();
        t.ask(cell(1), 0);
        t.ask(cell(2), 0);
        let mut spent = [0u64; 2];
        for _ in 0..1_000 {
            let (who, what) = t.take().expect("a turn");
            let (at, ns) = if who == cell(1) { (0, 1_000) } else { (1, 10) };
            spent[at] += ns;
            t.ask(who, what);
            t.used(who, ns);
        }
        assert!(spent[0].abs_diff(spent[1]) <= 2_000, "{spent:?}");
    }

    #[test]
    fn whoever_was_silent_is_next_and_has_saved_nothing() {
        let mut t = Turns::new();
        t.ask(cell(9), 0);
        assert_eq!(turn(&mut t, 5), Some((cell(9), 0)));
        // It is silent from here on.
        assert_eq!(t.take(), Some((cell(9), 0)));
        t.used(cell(9), 0);
        for n in 1..=100 {
            t.ask(cell(n % 8 + 10), 0);
        }
        for _ in 0..10_000 {
            turn(&mut t, 100);
        }
        t.ask(cell(9), 7);
        // Those who ask after it don't come before it; at most those whose clocks stand at the present do.
        assert_eq!(t.next_is_fresh(), Some(true));
        let before = (0..).take_while(|_| turn(&mut t, 100) != Some((cell(9), 7))).count();
        assert!(before <= 8, "{before} turns went before it");
        // From now on it has its share, no more.
        let turns: Vec<_> = (0..900).filter_map(|_| turn(&mut t, 100)).collect();
        let its = turns.iter().filter(|(who, _)| *who == cell(9)).count();
        assert!((99..=101).contains(&its), "{its} of 900");
    }

    #[test]
    fn leaving_and_coming_back_pays_no_debt() {
        let mut t = Turns::new();
        t.ask(cell(1), 0);
        t.ask(cell(2), 0);
        let (who, _) = t.take().expect("a turn");
        t.used(who, 1_000_000);
        // It has nothing more to do, and comes back at once.
        t.ask(who, 1);
        let other = if who == cell(1) { cell(2) } else { cell(1) };
        for _ in 0..99 {
            assert_eq!(turn(&mut t, 10_000), Some((other, 0)));
        }
    }

    #[test]
    fn held_means_no_turn() {
        let mut t = Turns::new();
        t.ask(cell(1), 0);
        t.hold(cell(1));
        t.ask(cell(1), 1);
        assert!(t.is_empty() && t.take().is_none());
        t.let_go(cell(1));
        assert_eq!(t.take(), Some((cell(1), 0)));
        t.used(cell(1), 1);
        assert_eq!(t.take(), Some((cell(1), 1)));
    }

    #[test]
    fn books_of_the_silent_are_thrown_away() {
        let mut t = Turns::new();
        for n in 0..100_000 {
            t.ask(cell(n), 0);
            let (who, _) = t.take().expect("a turn");
            t.used(who, 1);
        }
        assert!(t.callers.len() <= MOST_IDLE + 2, "{}", t.callers.len());
    }
}
