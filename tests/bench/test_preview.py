from PIL import Image

from optmerge.bench import tasks as registry
from optmerge.bench.preview import contact_sheet


def sheet(tmp_path, **options):
    path = tmp_path / "sheet.png"
    contact_sheet(registry.get("vqa"), "validation", 3, path, rows=2, columns=3, **options)
    with Image.open(path) as file:
        return file.convert("RGB")


def test_every_scene_is_on_the_sheet_in_its_place(tmp_path):
    picture = sheet(tmp_path)
    width, height = picture.width // 3, picture.height // 2
    for index in range(6):
        image = (
            registry.get("vqa")
            .scene("validation", index, 3)
            .image.resize((224, 224), Image.Resampling.NEAREST)
        )
        left, top = index % 3 * width + 8, index // 3 * height + 8
        assert picture.crop((left, top, left + 224, top + 224)).tobytes() == image.tobytes()


def test_question_and_answer_stand_below_every_scene_in_their_colours(tmp_path):
    picture = sheet(tmp_path)
    width, height = picture.width // 3, picture.height // 2
    for index in range(6):
        left, top = index % 3 * width, index // 3 * height + 8 + 224
        colours = {
            colour
            for _, colour in picture.crop((left, top, left + width, top + height - 232)).getcolors(9999)
        }
        assert {(0, 0, 0), (0, 100, 30)} <= colours


def test_captions_are_added_on_request(tmp_path):
    assert sheet(tmp_path, captions=True).height > sheet(tmp_path).height
