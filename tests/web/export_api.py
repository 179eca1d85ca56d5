"""Write workflows/api/*.json from workflows/*.json through ComfyUI's own page: python tests/web/export_api.py."""

from comfy_page import WORKFLOW_DIR, ComfyPage, bundled_workflows, own_page, read_workflow, write_json


def export_api(page: ComfyPage, name: str) -> None:
    """Convert one workflow as the page does when Run is pressed."""
    page.load(read_workflow(name))
    write_json(WORKFLOW_DIR / "api" / f"{name}.json", page.api_prompt())


def main() -> None:
    """Convert all."""
    with own_page() as page:
        for name in bundled_workflows():
            export_api(page, name)


if __name__ == "__main__":
    main()
