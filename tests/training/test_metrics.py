import pytest
import torch

from training.evaluation.metrics import calibration_error, confusion_matrix, f1_scores, fit_temperature, summarise


def logits_for(predicted, num_classes=3, height=4.0):
    return torch.nn.functional.one_hot(torch.tensor(predicted), num_classes).float() * height


def test_metrics_of_a_case_counted_by_hand():
    targets = torch.tensor([0, 0, 1, 1, 2, 2])
    logits = logits_for([0, 1, 1, 1, 2, 0])
    confusion = confusion_matrix(logits, targets)
    assert confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert f1_scores(confusion).tolist() == pytest.approx([2 / 4, 4 / 5, 2 / 3])
    metrics = summarise(logits, targets)
    assert metrics["top1"] == pytest.approx(4 / 6)
    assert metrics["top5"] == 1.0
    assert metrics["f1"] == pytest.approx((0.5 + 0.8 + 2 / 3) / 3)
    assert metrics["photos"] == 6


def test_class_that_never_occurs_has_f1_zero():
    assert f1_scores(confusion_matrix(logits_for([0, 1]), torch.tensor([0, 1]))).tolist() == [1, 1, 0]


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    logits = torch.tensor([[2.0, 0.0]]).repeat(100, 1)  # confidence 0.8808
    targets = torch.cat([torch.zeros(50), torch.ones(50)]).long()
    assert calibration_error(logits, targets) == pytest.approx(0.8808 - 0.5, abs=1e-4)


def test_temperature_undoes_overconfidence():
    torch.manual_seed(0)
    honest = torch.randn(4000, 5)
    targets = torch.distributions.Categorical(logits=honest).sample()
    assert fit_temperature(honest * 3, targets) == pytest.approx(3, rel=0.1)
    assert calibration_error(honest, targets) < 0.03 < calibration_error(honest * 3, targets)


def test_temperature_of_a_model_that_is_always_correct_stays_bounded():
    assert 0.1 < fit_temperature(logits_for([0, 1, 2]), torch.tensor([0, 1, 2])) < 10


def test_f1_is_the_mean_over_classes_that_have_photos():
    assert summarise(logits_for([0, 1]), torch.tensor([0, 1]))["f1"] == 1
