//! I/O limits on cgroup version 2 and logical volumes, measured with fio.

mod support;

use support::{Rig, Storage, throttle};

fn rig() -> Rig {
    stowage_testkit::require(&["fio"]);
    Rig::new(Storage::lvm(false))
}

#[test]
fn the_articles_job_runs_at_the_articles_limit() {
    throttle::the_articles_job(&rig());
}

#[test]
fn reading_and_writing_are_limited_each_for_itself() {
    throttle::each_side_for_itself(&rig());
}

#[test]
fn a_changed_limit_takes_hold_of_a_consumer_at_work() {
    throttle::changed_in_use(&rig());
}

#[test]
fn limits_are_set_again_after_a_kill() {
    throttle::set_again_after_a_kill(&mut rig());
}

#[test]
fn limits_come_back_with_their_control_group() {
    throttle::back_in_a_new_group(&rig());
}

#[test]
fn limits_go_with_the_last_target() {
    throttle::lifted_with_the_last_target(&rig());
}

#[test]
fn a_reader_of_a_raw_device_is_limited() {
    throttle::readers_are_limited(&rig());
}

#[test]
fn a_snapshot_of_a_limited_volume_waits_for_no_limit_and_holds_nobody_up() {
    throttle::a_cut_does_not_wait_for_the_limit(&rig());
}
