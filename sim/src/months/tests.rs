use super::*;

#[test]
fn one_month_run() {
    for seed in 0..2 {
        for churn in [5, 20] {
            let begin = std::time::Instant::now();
            let out = run(&Months::new(seed, churn));
            println!("{seed} {churn} {:?} {out:?}", begin.elapsed());
        }
    }
}
