//! Drops a future at its n-th await: what a Ctrl-C, a lost caller or a time-out does to it, one place after the other.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// Polls a future and gives up when it is still pending after so many polls; the future is dropped at that await point.
pub(crate) struct CancelAt<F> {
    inner: Option<Pin<Box<F>>>,
    polls_left: u64,
}

impl<F: Future> CancelAt<F> {
    pub(crate) fn new(polls: u64, inner: F) -> Self {
        Self { inner: Some(Box::pin(inner)), polls_left: polls }
    }
}

impl<F: Future> Future for CancelAt<F> {
    /// `None`: it was dropped.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        if let Poll::Ready(done) = inner.as_mut().poll(cx) {
            self.inner = None;
            return Poll::Ready(Some(done));
        }
        self.polls_left = self.polls_left.saturating_sub(1);
        if self.polls_left > 0 {
            return Poll::Pending;
        }
        self.inner = None;
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_future_is_dropped_at_the_poll_that_was_named() {
        let steps = std::cell::Cell::new(0);
        let work = || async {
            for step in 1..=3 {
                tokio::task::yield_now().await;
                steps.set(step);
            }
        };
        for (polls, reached, done) in [(1, 0, None), (2, 1, None), (3, 2, None), (4, 3, Some(()))] {
            steps.set(0);
            assert_eq!(CancelAt::new(polls, work()).await, done);
            assert_eq!(steps.get(), reached);
        }
    }
}
