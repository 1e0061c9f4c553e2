from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vitrellis.errors import UsageError
from vitrellis.recipe import (
    check_teachers_end,
    describe,
    differences,
    digest,
    header,
    identity,
    load_recipe,
    packaged_recipes,
    recipe_from,
    teacher_recipe,
)

MINIMAL = "model: {name: resnet18}\ntraining: {epochs: 3}\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mistake(name_or_path: str | Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(name_or_path, overrides)
    return str(caught.value)


def test_a_file_is_named_after_itself(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "mine.yaml", MINIMAL)).name == "mine"


def test_of_several_bases_the_later_counts_and_the_file_itself_most(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", MINIMAL + "seed: 1\naugmentation: {erasing: 0.1, scale: [0.5, 1]}\n")
    write(tmp_path, "b.yaml", "seed: 2\naugmentation: {erasing: 0.2, flip: 0.1}\n")
    path = write(tmp_path, "c.yaml", "extends: [a.yaml, b.yaml]\naugmentation: {flip: 0.3}\n")
    recipe = load_recipe(path)
    assert recipe.name == "c"
    assert recipe.seed == 2
    varied = recipe.augmentation
    assert (varied.erasing, varied.scale, varied.flip) == (0.2, (0.5, 1), 0.3)


def test_what_a_file_does_not_say_comes_from_the_one_it_extends(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", MINIMAL + "name: b\ndescription: d\naugmentation: {flip: 0.1}\n")
    path = write(
        tmp_path,
        "deeper/child.yaml",
        "extends: ../base.yaml\naugmentation: {erasing: 0.2, scale: [0.5, 1]}\n",
    )
    child = load_recipe(path)
    assert (child.name, child.description) == ("child", None)
    assert child.model.name == "resnet18"
    assert (child.augmentation.flip, child.augmentation.erasing) == (0.1, 0.2)
    assert child.augmentation.scale == (0.5, 1)


def test_a_packaged_recipe_can_be_extended(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "extends: demo\nteacher: null\nobjective: null\n")
    recipe = load_recipe(path)
    assert recipe.teacher is None
    assert recipe.model == load_recipe("demo").model


def test_extending_in_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    write(tmp_path, "b.yaml", "extends: a.yaml\n")
    assert "extends itself: a → b → a" in mistake(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: dmo\n", "extends: unknown recipe 'dmo'. Did you mean 'demo'?"),
        ("extends: gone.yaml\n", "extends: gone.yaml: no such file"),
        ("extends: [demo, 3]\n", "extends: 3 is not a recipe's name or path"),
        ("", "empty; a recipe has at least model.name and training.epochs"),
        ("- 1\n- 2\n", "holds a list; a recipe is a mapping"),
        ("hello\n", "holds only text"),
        ("a: [1\nb: 2\n", "not valid YAML: line 2, column 2: expected ',' or ']'"),
        ("seed: 1\nseed: 2\n", "line 2, column 1: the key 'seed' is there twice"),
        ("data:\n  seed: 1\n  seed: 2\n", "line 3, column 3: the key 'seed' is there twice"),
        ("3: 1\n", "the key 3 is not a name"),
        ("seed: !!python/object/apply:os.getcwd []\n", "python/object/apply:os.getcwd is not read"),
        ("seed: 1\0\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "bad.yaml", text)
    answer = mistake(path)
    assert message in answer
    assert answer.startswith(str(path))


def test_a_picture_is_not_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "photo.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    assert mistake(path) == f"{path}: not a text file, and so not a recipe"


def test_a_missing_file_is_answered_with_packaged_recipes() -> None:
    answer = mistake("demo.yaml")
    assert answer.startswith(
        "demo.yaml: no such file. Packaged recipes, by name alone: demo, demo-"
    )


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    answer = mistake("dmo")
    assert "unknown recipe 'dmo'. Did you mean 'demo'?" in answer
    assert "_demo" not in answer
    assert "ending in .yaml" in answer


def test_a_run_directory_is_not_a_recipe_but_holds_one(tmp_path: Path) -> None:
    assert mistake(tmp_path) == f"{tmp_path}: a folder; a recipe is a .yaml file"
    inside = write(tmp_path, "recipe.yaml", MINIMAL)
    assert mistake(tmp_path).endswith(f"Did you mean {inside}?")


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", MINIMAL)
    recipe = load_recipe(
        path,
        [
            "training.epochs=7",
            "training.epochs=8",
            "optimizer.lr=1e-2",
            "model.args={drop_path_rate: 1e-1}",
            "data.root=2024-01-02",
            "training.compile=yes",
        ],
    )
    assert recipe.training.epochs == 8
    assert recipe.optimizer.lr == 0.01
    assert recipe.model.args == {"drop_path_rate": 0.1}
    assert recipe.data.root == Path("2024-01-02")
    assert recipe.training.compile is True


@pytest.mark.parametrize("override", ["training.epochs", "=3", "a..b=3", ".=1", ""])
def test_an_override_is_a_key_and_a_value(override: str) -> None:
    assert "is not of the form key=value" in mistake("demo", override)


def test_an_override_is_yaml() -> None:
    assert mistake("demo", "input.img_size=[1").startswith(
        "command line: input.img_size=[1: not valid YAML"
    )


def test_a_mistake_names_where_it_was_written(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", MINIMAL + "optimizer: {lr: fast}\n")
    child = write(tmp_path, "child.yaml", "extends: base.yaml\nseed: x\nmodel: {size: 3}\n")
    answer = mistake(child, "training.epoch=3")
    assert "base.yaml: optimizer.lr: 'fast' is not a number" in answer
    assert f"{child}: seed: 'x' is not a whole number" in answer
    known = "name, zero_head, distillation_head"
    assert f"{child}: model.size: unknown key. Known: {known}" in answer
    assert "command line: training.epoch: unknown key. Did you mean 'epochs'?" in answer
    assert base.exists()


def test_a_described_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    for name in packaged_recipes():
        recipe = load_recipe(name)
        assert load_recipe(write(tmp_path, "recipe.yaml", describe(recipe))) == recipe, name


def test_awkward_values_survive_being_described(tmp_path: Path) -> None:
    recipe = recipe_from(
        {
            "name": "1e-3",
            "description": "yes: #1, 'two' ü\nnext",
            "data": {"source": "folder", "root": "null"},
            "input": {"img_size": [3, 4], "normalization": {"mean": [1e-9], "std": [1e12]}},
            "model": {"name": "on", "args": {"a": "1e5", "b": [1, {"c": "12:30"}], "d": "true"}},
            "teacher": {"run": "2020-01-01"},
            "objective": {
                "kd": {"weight": {"value": 1, "to": 3, "epochs": 2}},
                "locality": {"student_blocks": "learned", "weight": {"value": 2, "off_after": 1}},
            },
            "training": {"epochs": 3},
        }
    )
    assert load_recipe(write(tmp_path, "x.yaml", describe(recipe))) == recipe


def test_what_defines_a_run_leaves_out_names_machines_and_saving() -> None:
    recipe = load_recipe("demo")
    same = load_recipe(
        "demo",
        ["name=other", "description=x", "machine.threads=3", "training.checkpoint_minutes=9"],
    )
    assert differences(recipe, same) == []
    assert digest(identity(recipe)) == digest(identity(same))


def test_differences_are_named_with_both_values() -> None:
    changed = load_recipe(
        "demo",
        ["optimizer.lr=7e-3", "data.root=x", "objective.kd=null", "teacher.mode=train"],
    )
    lines = differences(load_recipe("demo"), changed)
    assert "optimizer.lr: 0.003 → 0.007" in lines
    assert 'data.root: none → "x"' in lines
    assert 'teacher.mode: "eval" → "train"' in lines
    assert "objective.kd.weight: 4.0 → none" in lines
    assert digest(identity(changed)) != digest(identity(load_recipe("demo")))


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert len(digest({})) == 12


def test_the_teacher_learns_from_the_students_images() -> None:
    student = load_recipe("demo", ["seed=5", "data.train_size=700", "machine.threads=1"])
    teacher = teacher_recipe(student)
    assert teacher.name == "demo-teacher"
    assert teacher.seed == 5
    assert teacher.data.train_size == 700
    assert teacher.machine == student.machine
    assert teacher.model == load_recipe("demo-teacher").model


def test_the_teachers_seed_can_be_fixed_without_moving_the_split() -> None:
    student = load_recipe("demo", ["seed=5", "teacher.overrides=[seed=1, training.epochs=7]"])
    teacher = teacher_recipe(student)
    assert (teacher.seed, teacher.training.epochs) == (1, 7)
    assert teacher.data.seed == 5


def test_a_mistake_in_the_teachers_overrides_is_found() -> None:
    student = load_recipe("demo", ["teacher.overrides=[training.epoch=2]"])
    with pytest.raises(UsageError, match=r"demo: teacher\.overrides: training\.epoch: unknown key"):
        teacher_recipe(student)


def test_a_teachers_recipe_file_is_found_from_the_file_that_names_it(tmp_path: Path) -> None:
    write(tmp_path, "there/cnn.yaml", MINIMAL)
    guided = "teacher: {recipe: cnn.yaml}\nobjective: {kd: {}}\n"
    student = load_recipe(write(tmp_path, "there/vit.yaml", MINIMAL + guided))
    resolved = load_recipe(write(tmp_path, "runs/vit/recipe.yaml", describe(student)))
    assert teacher_recipe(resolved).name == "cnn"


def test_the_header_is_the_comment_a_recipe_opens_with(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "# One\n#   two\n#\n" + MINIMAL + "# not this\n")
    assert header(path) == "One\n  two\n"


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("lr=1e-4", "lr: unknown key. Did you mean 'optimizer.lr'?"),
        ("epochs=20", "epochs: unknown key. Did you mean 'training.epochs'?"),
        ("training.lr=1", "training.lr: unknown key. Did you mean 'optimizer.lr'?"),
        ("img_size=32", "Did you mean 'input.img_size' or 'teacher.img_size'?"),
        ("training.epoch=3", "training.epoch: unknown key. Did you mean 'epochs'?"),
        ("epoch=3", "epoch: unknown key. Did you mean 'training.epochs'?"),
        ("--epochs=3", "--epochs: no such option"),
        ("--img-size=3", "without dashes, as key=value, such as input.img_size=3"),
        ("-q", "without dashes, as key=value, such as training.epochs=20"),
    ],
)
def test_the_key_that_was_meant_is_named(override: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(hint)):
        load_recipe("demo", [override])


def test_teachers_typed_for_teacher(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "extends: demo\nteacher: null\nteachers: {recipe: demo}\n")
    assert "A single teacher is given by teacher, without s: teacher.recipe" in mistake(path)
    path = write(tmp_path, "b.yaml", "extends: demo\nteachers: {cnn: {recipes: demo}}\n")
    assert "teachers.cnn.recipes: unknown key. Did you mean 'recipe'?" in mistake(path)


def test_teachers_that_go_round_in_a_circle(tmp_path: Path) -> None:
    own = load_recipe(write(tmp_path, "own.yaml", "extends: demo\nteacher: {recipe: own.yaml}\n"))
    with pytest.raises(UsageError, match=r"own: teacher\.recipe: .* in a circle: own → own"):
        check_teachers_end(own)
    write(tmp_path, "b.yaml", "extends: demo\nteacher: {recipe: a.yaml}\n")
    pair = load_recipe(write(tmp_path, "a.yaml", "extends: demo\nteacher: {recipe: b.yaml}\n"))
    with pytest.raises(UsageError, match="in a circle: b → a → b"):
        check_teachers_end(pair)


def test_a_recipe_may_be_its_own_teacher_for_some_generations(tmp_path: Path) -> None:
    last = "{recipe: born.yaml, overrides: {teacher: null, objective: {locality: null, kd: null}}}"
    path = write(tmp_path, "born.yaml", f"extends: demo-kd\nteacher: {last}\n")
    check_teachers_end(load_recipe(path))


def test_changes_can_be_a_mapping() -> None:
    texts = ["training.epochs=9", "optimizer.lr=0.1", "input.img_size=[28, 30]", "teacher=null"]
    mappings: list[dict[str, Any]] = [
        {"training": {"epochs": 9}, "optimizer.lr": 0.1, "input": {"img_size": (28, 30)}},
        {"training.epochs": 9, "optimizer": {"lr": 0.1}, "input.img_size": [28, 30]},
    ]
    expected = load_recipe("demo-alone", texts)
    for changes in mappings:
        assert load_recipe("demo-alone", changes | {"teacher": None}) == expected
    with pytest.raises(UsageError, match=r"overrides: training\.epochs: .*at least 1"):
        load_recipe("demo-alone", {"training.epochs": 0})
    with pytest.raises(UsageError, match="is one text; give a list"):
        load_recipe("demo-alone", "training.epochs=3")
    with pytest.raises(UsageError, match=r"'training\.' is not a key"):
        load_recipe("demo-alone", {"training.": 3})
