//! What a durable queue means, as tests: every store of Evoke passes all of them.
//!
//! An engine says with [`Engine`] how its store is opened in a fresh place, opened again, and killed; then
//! `testkit::store_contract!(ItsEngine);` in its integration tests makes one test of every rule, and
//! `testkit::store_agreement!(ItsEngine);` one that holds it against [`crate::reference::ReferenceStore`] under random
//! operations, restarts and kills.
//!
//! The rules run on a runtime of their own in held time (see [`crate::time`]), so that hours pass at once while the
//! store's own threads work; each has a limit of real time, after which it counts as hung.

mod accepting;
mod agreement;
mod bench;
mod bodies;
mod calls;
mod closing;
mod dying;
mod leasing;
mod operating;
mod placing;
mod reading;
mod repeating;
mod scheduling;
mod settling;
mod stress;
mod waiting;

use std::future::Future;
use std::time::Duration;

pub use agreement::{agree, disagreement};
pub use bench::{End, Engine};

use crate::time::within;

/// One rule of the contract, for one engine.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What it says.
    pub name: &'static str,
    /// Checks it; panics where the store breaks it.
    pub check: fn(),
}

/// The longest a rule may take, in real time.
const LIMIT: Duration = Duration::from_secs(120);

/// In held time, on one thread.
fn in_held_time(name: &str, rule: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("the system has room for a runtime");
    runtime.block_on(within(LIMIT, name, rule));
}

/// In real time, on several threads.
fn on_threads(name: &str, rule: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("the system has room for a runtime");
    runtime.block_on(within(LIMIT, name, rule));
}

// The list of rules stands once; from it come the function that names them and the macro that makes tests of them.
macro_rules! rules {
    ($d:tt; $($how:ident { $($module:ident: $($rule:ident)+;)+ })+) => {
        /// Every rule, for this engine.
        pub fn rules<E: Engine>() -> Vec<Rule> {
            vec![$($($(Rule {
                name: stringify!($rule),
                check: || $how(stringify!($rule), $module::$rule::<E>()),
            },)+)+)+]
        }

        /// Checks the rule of this name.
        ///
        /// # Panics
        /// Where the store breaks it, and when there is no such rule.
        pub fn check<E: Engine>(name: &str) {
            let rule = rules::<E>().into_iter().find(|rule| rule.name == name);
            (rule.unwrap_or_else(|| panic!("the contract has no rule {name:?}")).check)();
        }

        /// One `#[test]` for each rule of the store's contract, for the engine named.
        #[macro_export]
        macro_rules! store_contract {
            ($d engine:ty) => {
                $($($(
                    #[test]
                    fn $rule() {
                        $d crate::contract::store::check::<$d engine>(stringify!($rule));
                    }
                )+)+)+
            };
        }
    };
}

rules! {
    $;
    in_held_time {
        accepting:
            an_accepted_call_is_found_as_it_was_given
            a_fan_out_is_accepted_whole_in_the_order_of_its_drafts
            a_fan_out_over_the_bound_leaves_nothing
            room_returns_when_calls_end
            callbacks_are_never_refused_for_a_bound
            accepted_work_outlives_a_close
            accepted_work_outlives_a_kill
            no_two_invocations_share_an_id
            a_dropped_accept_is_whole_or_absent
            an_accept_under_way_at_a_kill_is_whole_or_absent
            a_buried_message_is_accepted_and_dead_at_once;
        repeating:
            a_repeat_answers_with_the_first_ids
            concurrent_repeats_make_one_invocation
            a_key_with_another_request_is_refused
            keys_outlive_a_close_and_a_kill
            scopes_do_not_share_keys
            a_refused_acceptance_leaves_its_key_free
            a_key_is_forgotten_after_its_window
            a_buried_message_is_recognised_again;
        placing:
            a_position_makes_one_invocation
            concurrent_repeats_of_a_position_make_one_invocation
            positions_outlive_a_close_and_a_kill
            positions_do_not_expire
            a_buried_position_is_recognised_again
            a_refused_position_stays_free
            what_nobody_wanted_may_come_again
            what_is_below_the_commit_is_received
            a_partition_goes_on_where_it_was_received
            what_the_upstream_contradicts_is_void
            a_recreated_stream_is_read_anew
            a_void_mark_stays_void_over_a_kill
            a_reset_forgets_the_marks_of_one_source
            marks_outlive_the_calls_they_came_with;
        scheduling:
            an_instant_runs_once
            concurrent_runs_of_an_instant_make_one_invocation
            instants_outlive_a_close_and_a_kill
            a_missed_instant_runs_once_when_it_is_made_up_for
            a_clock_set_back_repeats_no_instant_and_silences_none
            a_run_by_hand_is_the_run_of_no_instant
            an_unknown_schedule_runs_nothing
            a_refused_run_leaves_its_instant_free
            a_schedule_keeps_its_anchor
            a_removed_schedule_is_forgotten_whole
            what_was_passed_over_is_remembered
            pauses_of_schedules_are_remembered;
        leasing:
            a_lane_gives_its_oldest_first
            lanes_do_not_mix
            a_lease_of_none_claims_none
            a_leased_call_is_not_leased_again
            a_delivery_knows_its_attempts_and_its_body
            ready_waits_while_there_is_nothing
            ready_names_a_lane_once
            a_lane_found_short_is_named_when_it_gains
            ready_names_a_lane_when_a_wait_ends
            whoever_waits_in_ready_hears_of_waits_that_began_later
            ready_names_the_lane_of_a_redriven_call
            a_dropped_ready_loses_no_lane
            a_reopened_store_names_the_lanes_that_have_work;
        settling:
            a_completed_call_has_ended_well
            a_retried_call_keeps_its_attempts
            a_released_call_has_no_trace_of_a_start
            a_released_call_goes_back_to_the_head_of_its_lane
            a_dead_call_is_kept_with_its_reason
            the_first_settlement_counts
            of_concurrent_settlements_one_counts
            a_cancelled_delivery_settles_nothing
            a_lease_of_an_earlier_life_settles_nothing
            a_lease_of_an_earlier_process_settles_nothing
            a_lease_of_nothing_settles_nothing
            what_follows_is_accepted_with_the_settlement
            what_follows_outlives_a_kill_with_its_settlement
            a_settlement_under_way_at_a_kill_is_whole_or_absent
            a_dropped_settlement_is_whole_or_absent
            a_settled_call_stays_settled_over_many_reopenings
            an_end_that_was_told_outlives_a_kill;
        waiting:
            a_retry_is_not_early
            waits_end_in_the_order_of_their_ends
            a_retried_call_comes_back_behind_the_others
            a_released_call_waits_as_told
            jumps_of_the_wall_clock_leave_retries_alone
            a_retry_waits_on_over_a_reopening
            a_wait_that_ended_while_closed_is_over
            a_due_time_is_kept
            a_due_time_is_kept_over_a_reopening
            a_due_time_in_the_past_is_no_wait
            due_times_follow_the_wall_clock_ahead
            due_times_follow_the_wall_clock_back
            one_that_is_not_due_holds_nobody_up;
        dying:
            a_call_under_way_at_a_kill_was_interrupted
            the_more_often_interrupted_the_longer_the_wait
            interruptions_are_kept_with_the_attempts
            a_close_interrupts_nothing
            a_settled_call_was_not_interrupted
            a_call_that_kills_its_broker_at_once_is_counted
            a_new_life_was_never_interrupted
            the_books_are_even_after_every_kill;
        operating:
            what_waits_can_be_cancelled
            what_has_ended_cannot_be_cancelled
            a_cancelled_delivery_is_no_interruption
            a_redriven_letter_begins_a_new_life
            one_life_is_redriven_once
            what_has_nothing_to_run_is_not_redriven
            what_is_not_dead_is_not_redriven
            a_removed_letter_is_gone_for_good
            pauses_are_remembered
            a_pause_only_is_remembered;
        bodies:
            bodies_of_every_size_come_back_whole
            a_large_body_is_spooled_and_streamed
            a_spooled_body_that_nobody_took_leaves_nothing
            a_callback_may_carry_a_spooled_body
            a_dead_letter_keeps_its_body_until_removed;
        reading:
            lists_are_narrowed_by_every_filter
            lists_outlive_a_kill
            pages_join_to_the_whole_list
            a_page_ends_where_the_list_ends
            a_cursor_holds_its_place_while_the_list_grows
            a_cursor_that_no_list_gave_is_refused
            dead_letters_come_latest_death_first
            a_redriven_letter_leaves_the_list_and_returns_on_top
            lanes_say_how_they_stand
            what_is_unknown_is_not_found
            totals_count_each_step_once
            health_says_how_durable_it_is;
        closing:
            a_closed_store_does_nothing_more
            what_was_begun_before_a_close_is_whole_or_refused;
    }
    on_threads {
        stress:
            many_at_once_lose_nothing;
    }
}

/// One `#[test]` that holds the engine against the reference store; `cases` runs of random operations.
#[macro_export]
macro_rules! store_agreement {
    ($engine:ty, cases: $cases:expr) => {
        #[test]
        fn it_agrees_with_the_reference_whatever_happens() {
            $crate::contract::store::agree::<$engine>($cases);
        }
    };
}
