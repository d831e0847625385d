"""A loop of joblib's on the machines of the network."""

import joblib

import myxo.joblib  # noqa: F401  (gives joblib the backend)


def digits_of_power(exponent: int) -> int:
    return len(str(7**exponent))


def main() -> None:
    with joblib.parallel_config(backend="myxo", n_jobs=2):
        digits = joblib.Parallel()(joblib.delayed(digits_of_power)(n) for n in range(1000))
    print(f"{sum(digits):,} digits in 1000 powers of seven")


if __name__ == "__main__":
    main()
