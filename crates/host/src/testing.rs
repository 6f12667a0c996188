//! Fixtures: loop devices and mounts that go away with the test.
