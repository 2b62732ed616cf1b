//! The lanes: which invocations may run, how many stand where, and which lanes have to be named to the dispatcher.

use std::collections::{HashMap, VecDeque};

use broker_model::Lane;

use crate::table::Phase;

/// One lane.
#[derive(Debug)]
pub(crate) struct LaneState {
    pub(crate) lane: Lane,
    /// Invocations that name it, ended ones included; at zero it is dropped.
    refs: u64,
    /// Numbers in the order they may run; those that no longer may are skipped when met.
    pub(crate) ready: VecDeque<u64>,
    pub(crate) count_ready: u64,
    pub(crate) count_retrying: u64,
    pub(crate) count_scheduled: u64,
    pub(crate) count_leased: u64,
    /// It was named and no lease has found less in it than it asked for since.
    named: bool,
}

/// All lanes by a number of this process.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: Vec<Option<LaneState>>,
    free: Vec<u32>,
    by_name: HashMap<Lane, u32>,
    to_name: Vec<u32>,
}

impl Lanes {
    /// The number of a lane, with one more invocation that names it.
    pub(crate) fn join(&mut self, lane: &Lane) -> u32 {
        if let Some(&number) = self.by_name.get(lane) {
            if let Some(state) = self.lanes[number as usize].as_mut() {
                state.refs += 1;
            }
            return number;
        }
        let state = LaneState {
            lane: lane.clone(),
            refs: 1,
            ready: VecDeque::new(),
            count_ready: 0,
            count_retrying: 0,
            count_scheduled: 0,
            count_leased: 0,
            named: false,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.lanes[number as usize] = Some(state);
                number
            }
            None => {
                self.lanes.push(Some(state));
                (self.lanes.len() - 1) as u32
            }
        };
        self.by_name.insert(lane.clone(), number);
        number
    }

    /// One invocation fewer names it.
    pub(crate) fn leave(&mut self, number: u32) {
        let Some(state) = self.lanes[number as usize].as_mut() else { return };
        state.refs -= 1;
        if state.refs == 0 {
            self.by_name.remove(&state.lane);
            self.to_name.retain(|named| *named != number);
            self.lanes[number as usize] = None;
            self.free.push(number);
        }
    }

    pub(crate) fn number_of(&self, lane: &Lane) -> Option<u32> {
        self.by_name.get(lane).copied()
    }

    pub(crate) fn get(&self, number: u32) -> Option<&LaneState> {
        self.lanes.get(number as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut LaneState> {
        self.lanes.get_mut(number as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &LaneState> {
        self.lanes.iter().flatten()
    }

    /// Invocations that neither ended nor died: counted, over what the lanes hold.
    pub(crate) fn held(&self) -> u64 {
        self.iter()
            .map(|lane| lane.count_ready + lane.count_retrying + lane.count_scheduled + lane.count_leased)
            .sum()
    }

    /// Books one invocation from one phase to another.
    pub(crate) fn shift(&mut self, number: u32, from: Option<Phase>, to: Option<Phase>) {
        let Some(state) = self.get_mut(number) else { return };
        if let Some(count) = from.and_then(|phase| state.count(phase)) {
            *count -= 1;
        }
        if let Some(count) = to.and_then(|phase| state.count(phase)) {
            *count += 1;
        }
    }

    /// A number may run; whether somebody has to be told.
    pub(crate) fn push(&mut self, lane: u32, number: u64, at_front: bool) -> bool {
        let Some(state) = self.get_mut(lane) else { return false };
        if at_front {
            state.ready.push_front(number);
        } else {
            state.ready.push_back(number);
        }
        if state.named {
            return false;
        }
        state.named = true;
        self.to_name.push(lane);
        true
    }

    /// A lease found less in a lane than it asked for: it is named again when it gains some.
    pub(crate) fn found_empty(&mut self, lane: u32) {
        if let Some(state) = self.get_mut(lane) {
            state.named = false;
        }
        self.to_name.retain(|named| *named != lane);
    }

    /// The lanes to name, which then count as named.
    pub(crate) fn take_named(&mut self) -> Vec<Lane> {
        let numbers = std::mem::take(&mut self.to_name);
        numbers.into_iter().filter_map(|number| self.get(number).map(|state| state.lane.clone())).collect()
    }
}

impl LaneState {
    fn count(&mut self, phase: Phase) -> Option<&mut u64> {
        match phase {
            Phase::Ready => Some(&mut self.count_ready),
            Phase::Retrying => Some(&mut self.count_retrying),
            Phase::Scheduled => Some(&mut self.count_scheduled),
            Phase::Leased => Some(&mut self.count_leased),
            Phase::Dead | Phase::Redriving | Phase::Completed | Phase::Cancelled => None,
        }
    }
}
