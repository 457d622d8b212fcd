"""Random numbers: their distribution, and that no draw is ever repeated."""

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy import stats

from dpdt import _core
from dpdt.errors import PrivacyError
from dpdt.privacy.keystream import KeyStream


def test_words_are_the_chacha20_keystream() -> None:
    key = bytes(range(32))
    stream = KeyStream(key, draws=5)
    expected = Cipher(ChaCha20(key, bytes(4) + (5).to_bytes(12, "little")), mode=None).encryptor().update(bytes(16))
    first = int.from_bytes(expected[:8], "little") >> 11
    assert stream.uniform(2)[0] == first / 2**53


def test_uniform_numbers_are_uniform() -> None:
    numbers = KeyStream.from_seed("uniform").uniform(100_000)
    assert numbers.dtype == np.float64
    assert 0 <= numbers.min() < numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("count", [1, 2, 3, 100_001, 300_000])
def test_normal_numbers_are_standard_normal(count: int) -> None:
    numbers = KeyStream.from_seed("normal").normal(count)
    assert numbers.shape == (count,)
    assert numbers.dtype == torch.float64
    assert bool(numbers.isfinite().all())
    if count > 1000:
        assert stats.kstest(numbers.numpy(), "norm").pvalue > 1e-3
        assert stats.kurtosistest(numbers.numpy()).pvalue > 1e-3
        neighbours = np.corrcoef(numbers[:-1], numbers[1:])[0, 1]
        assert abs(neighbours) < 4 / count**0.5


def test_neighbouring_halves_of_a_draw_are_independent() -> None:
    numbers = KeyStream.from_seed("halves").normal(100_000).numpy()
    assert abs(np.corrcoef(numbers[:50_000], numbers[50_000:])[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[:50_000] ** 2, numbers[50_000:] ** 2)[0, 1]) < 0.02


def test_a_stream_goes_on_where_its_state_was_saved() -> None:
    stream = KeyStream.fresh()
    stream.normal(7)
    copy = KeyStream.from_state(stream.state_dict())
    assert torch.equal(copy.normal(1000), stream.normal(1000))
    assert np.array_equal(copy.uniform(1000), stream.uniform(1000))


def test_no_two_draws_and_no_two_keys_give_the_same_numbers() -> None:
    one, other = KeyStream.fresh(), KeyStream.fresh()
    draws = [stream.normal(10).numpy().tobytes() for stream in (one, other) for _ in range(50)]
    assert len(set(draws)) == 100


def test_a_fresh_key_is_32_bytes_of_the_system_as_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 400,000 keys 18 pairs would be equal if they had 32 bits (n²/2^33), and nearly all if they had 16.
    keys = {KeyStream.fresh().state_dict()["key"] for _ in range(400_000)}
    assert len(keys) == 400_000
    asked = []

    def system(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    monkeypatch.setattr("dpdt.privacy.keystream.secrets.token_bytes", system)
    assert KeyStream.fresh().state_dict() == {"key": bytes(range(32)).hex(), "draws": 0, "seeded": False}
    assert asked == [32]


def test_only_a_seeded_stream_is_reproducible_and_says_so() -> None:
    assert np.array_equal(KeyStream.from_seed("a", 1).uniform(5), KeyStream.from_seed("a", 1).uniform(5))
    assert not np.array_equal(KeyStream.from_seed("a", 1).uniform(5), KeyStream.from_seed("a1").uniform(5))
    assert KeyStream.from_seed("a").seeded
    assert not KeyStream.fresh().seeded


@pytest.mark.parametrize("state", [None, {}, {"key": "no hex", "draws": 0, "seeded": False}, {"key": "00" * 32}])
def test_a_state_that_cannot_be_read_is_refused(state: object) -> None:
    with pytest.raises(PrivacyError, match="the state of the random numbers cannot be read"):
        KeyStream.from_state(state)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(PrivacyError, match="expected 32 key bytes"):
        KeyStream(b"short")


def box_muller(key: bytes, nonce: bytes, count: int) -> np.ndarray:
    """What `normal` promises, computed independently: OpenSSL's ChaCha20, numpy's logarithm, sine and cosine."""
    blocks = -(-count // 2)
    cipher = Cipher(ChaCha20(key, bytes(4) + nonce), mode=None)  # the block counter, then the nonce
    words = np.frombuffer(cipher.encryptor().update(bytes(64 * blocks)), dtype="<u8").reshape(blocks, 4, 2)
    uniform = (words >> np.uint64(12)).astype(np.float64) * 2.0**-52
    radius, angle = np.sqrt(-2 * np.log(1 - uniform[:, :, 0])), 2 * np.pi * uniform[:, :, 1]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    numbers: np.ndarray = pairs.sum(1).reshape(-1)[:count] / 2
    return numbers


@pytest.mark.parametrize("count", [1, 2, 15, 17, 16384, 16385, 70_001])
def test_the_core_makes_the_numbers_that_the_formula_says_on_any_number_of_threads(count: int) -> None:
    key, nonce = bytes(range(32)), bytes(range(100, 112))
    found = [np.empty(count) for _ in range(3)]
    for out, num_threads in zip(found, (1, 2, 7), strict=True):
        _core.fill_normal(key, nonce, out, num_threads=num_threads)
    np.testing.assert_allclose(found[0], box_muller(key, nonce, count), rtol=0, atol=1e-13)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize("count", [1, 16, 33, 16385, 70_001])
def test_every_kind_of_vectors_that_the_processor_has_makes_the_same_numbers(count: int) -> None:
    key, nonce = bytes(range(32)), bytes(range(50, 62))
    names = _core.noise_vectors()
    assert names[0] == "plain"
    numbers = {name: np.empty(count) for name in ["", *names]}
    for name, out in numbers.items():
        _core.fill_normal(key, nonce, out, vectors=name)
    np.testing.assert_allclose(numbers["plain"], box_muller(key, nonce, count), rtol=0, atol=1e-13)
    for name, out in numbers.items():
        assert out.tobytes() == numbers["plain"].tobytes(), name


def test_vectors_that_the_processor_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="vectors: this processor has no quantum"):
        _core.fill_normal(bytes(32), bytes(12), np.empty(2), vectors="quantum")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_added_and_divided_in_double_precision_and_rounded_once(dtype: torch.dtype) -> None:
    values = torch.linspace(-3, 3, 40_000).view(200, 200).to(dtype)
    expected = (values.double() + 0.7 * KeyStream.from_seed("n").normal(40_000).view(200, 200)) / 9
    stream = KeyStream.from_seed("n")
    stream.noise(values, scale=0.7, divisor=9)
    assert torch.equal(values, expected.to(dtype))
    assert stream.state_dict()["draws"] == 1


CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_made_ahead_are_the_same_bits_and_no_draw_is_used_up_before_it_is_taken(dtype: torch.dtype) -> None:
    # 24 is no power of two, so that a multiplication with its reciprocal would be seen
    counts = [3, 40_000, 1]
    ahead, plain = KeyStream.from_seed("ahead"), KeyStream.from_seed("ahead")
    for _ in range(3):
        before = ahead.state_dict()
        ahead.make_ahead(counts, device=CPU, num_threads=2)
        ahead.make_ahead(counts, device=CPU, num_threads=2)  # they are there already
        assert ahead.state_dict() == before
        for count in counts:
            found, wanted = (torch.linspace(-3, 3, count, dtype=dtype) for _ in range(2))
            ahead.noise(found, scale=0.7, divisor=24)
            plain.noise(wanted, scale=0.7, divisor=24)
            assert torch.equal(found, wanted)
        assert ahead.state_dict() == plain.state_dict()
    ahead.close()


def test_numbers_made_ahead_and_not_taken_are_those_of_their_draw_again() -> None:
    stream, values = KeyStream.from_seed("again"), torch.zeros(100)
    stream.make_ahead([100, 100], device=CPU, num_threads=1)
    resumed = KeyStream.from_state(stream.state_dict())  # of a checkpoint, before any was taken
    stream.noise(values, scale=1.0, divisor=1.0)
    other = torch.zeros(100)
    resumed.noise(other, scale=1.0, divisor=1.0)
    assert torch.equal(values, other)
    skipped = stream.normal(100)  # another draw comes first: what was made for it is not what the next one gets
    assert torch.equal(skipped, resumed.normal(100))
    for either in (stream, resumed):
        either.noise(values.zero_(), scale=1.0, divisor=1.0)
        assert not torch.equal(values, skipped.float())
    stream.make_ahead([100], device=CPU, num_threads=1)
    stream.close()
    for either in (stream, resumed):
        values.zero_()
        either.noise(values, scale=1.0, divisor=1.0)
        assert not torch.equal(values, other)
    assert stream.state_dict() == resumed.state_dict()


def test_a_key_or_nonce_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="key: expected 32 bytes, got 31"):
        _core.fill_normal(bytes(31), bytes(12), np.empty(2))
    with pytest.raises(ValueError, match="nonce: expected 12 bytes, got 8"):
        _core.add_normal(bytes(32), bytes(8), np.empty(2, np.float32), scale=1.0, divisor=1.0)
