//! Checks of credentials, which may cost some eight hundred signatures each: on threads of their own, a few at a time.
//!
//! Who may ask for such a check is anybody who makes up a group, a mandate and its changes of stewards. So no check runs on a thread
//! that others' streams wait for, and all of them together take [`AT_ONCE`] threads, whichever protocol they came by.

use std::time::Duration;

use tokio::sync::Semaphore;

/// Checks that run at once: two cores' worth of signatures at the most, whoever asks. Of the whole process, whose cores they are.
const AT_ONCE: usize = 2;

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Runs a check when it is its turn; `None` when it is not within `wait`, or when the check panics.
pub(crate) async fn in_turn<T, C>(wait: Duration, check: C) -> Option<T>
where
    T: Send + 'static,
    C: FnOnce() -> T + Send + 'static,
{
    let turn = tokio::time::timeout(wait, TURNS.acquire()).await.ok()?.ok()?;
    // The turn ends with the check, not with whoever does not wait for it.
    let checked = tokio::task::spawn_blocking(move || {
        let checked = check();
        drop(turn);
        checked
    });
    checked.await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_few_at_a_time_and_who_waits_too_long_is_told() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(0)));
        let check = || {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            in_turn(Duration::from_secs(120), move || {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                let mut most = most.lock().expect("lock");
                *most = now.max(*most);
                drop(most);
                std::thread::sleep(Duration::from_millis(1));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        let done = futures::future::join_all((0..50).map(|_| check())).await;
        assert!(done.iter().all(Option::is_some));
        assert!(*most.lock().expect("lock") <= AT_ONCE);
        let all = TURNS.acquire_many(AT_ONCE as u32).await.expect("open");
        assert_eq!(in_turn(Duration::from_millis(1), || ()).await, None);
        drop(all);
        assert_eq!(in_turn(Duration::from_secs(120), || ()).await, Some(()));
    }
}
