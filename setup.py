"""Package metadata; the settings of the tools are in pyproject.toml."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

VERSION = "0.1.0"
PROJECT_URL = os.environ.get("PROJECT_URL", "").rstrip("/")  # of the public repository: make dist URL=...

DEPENDENCIES = [
    "torch>=2.6",
    "diffusers>=0.37,<1",
    "transformers>=4.51,<6",
    "accelerate>=1.1",
    "safetensors>=0.6.1",
    "huggingface-hub>=0.34",
    "sentencepiece>=0.2",
    "protobuf>=4.25",  # needed to read a T5 spiece.model; not a dependency of the other packages
    "einops>=0.8",
    "numpy>=1.26",
    "omegaconf>=2.3",
    "pyyaml>=6.0.1",
    "imageio[ffmpeg]>=2.37",
    "pillow>=10.4",
    "tqdm>=4.66",
    "lazy-loader>=0.4",
    "ftfy>=6.3",
    "beautifulsoup4>=4.12",
]

TEST = [
    "pytest>=8",
    "pytest-cov>=5",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "scikit-image>=0.24",
    "openai>=2.3",  # tests: its client for the service
    "playwright>=1.50",  # tests: controls the installed Chromium
]
COLOSSALAI = ["colossalai>=0.3.6"]  # the newest whose requirements allow current torch and transformers
TRITON = ['triton>=3.4; platform_system == "Linux"']  # CUDA builds of torch include it
PLOT = ["matplotlib>=3.8"]
RAY = ["ray>=2.40"]
POSTGRES = ["psycopg[binary]>=3.2"]
PEFT = ["peft>=0.17"]  # tests: adapters of diffusers' models
SERVE = [
    "fastapi>=0.120",
    "uvicorn>=0.35",
    "sqlalchemy>=2.0.36",
    "prometheus-client>=0.21",
    "python-multipart>=0.0.18",  # forms, as sent by the openai client
]
DIST = ["build>=1.2", "setuptools>=77"]
DOCS = [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.6",
    "mkdocstrings[python]>=1.0",
    "latex2mathml>=3.77",
    "ruff>=0.9",  # breaks long signatures
]
LINT = ["ruff>=0.9", "mypy>=1.13", "codespell[toml]>=2.3", "pre-commit>=3.8", "pre-commit-hooks>=5"]

EXTRAS = {
    "eval": ["lpips>=0.1.4", "torchvision"],
    "av": ["av>=14"],
    "plot": PLOT,
    "flash-attn": ["flash-attn>=2.6"],
    "triton": TRITON,
    "colossalai": COLOSSALAI,
    "serve": SERVE,
    "postgres": POSTGRES,
    "ray": RAY,
    "test": TEST,
    "lint": LINT,
    "docs": DOCS,
    "dev": TEST + LINT + DIST + DOCS + COLOSSALAI + PLOT + TRITON + SERVE + POSTGRES + RAY + PEFT,
}
RELATIVE = r"(?!https?:|#|mailto:)"


def described(readme: str, url: str) -> str:
    """The README for a package index, which does not have the files next to it.

    Relative links point into the repository at `url`. Without a URL, links and images become text.
    """
    if not url:
        text = re.sub(rf"!\[([^\]]*)\]\({RELATIVE}[^)]+\)", r"\1", readme)
        return re.sub(rf"\[([^\]]*)\]\(({RELATIVE}[^)]+)\)", r"\1 (\2)", text)
    text = re.sub(rf"(!\[[^\]]*\]\()({RELATIVE}[^)]+\))", rf"\1{url}/raw/v{VERSION}/\2", readme)
    return re.sub(rf"(?<!!)(\[[^\]]*\]\()({RELATIVE}[^)]+\))", rf"\1{url}/blob/v{VERSION}/\2", text)


class BuildWithConfigs(build_py):
    """Copies the configs in examples/ to videosys/configs in the wheel. A checkout needs no copy."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "videosys", "configs")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("examples", target, ignore=shutil.ignore_patterns("__pycache__"))


setup(
    name="videosys",
    version=VERSION,
    description="Text-to-video diffusion transformers that skip the steps that change little",
    long_description=described(Path(__file__).with_name("README.md").read_text("utf-8"), PROJECT_URL),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    project_urls={"Source": PROJECT_URL, "Changelog": f"{PROJECT_URL}/blob/v{VERSION}/CHANGELOG.md"}
    if PROJECT_URL
    else {},
    python_requires=">=3.10",
    packages=find_packages(include=["videosys", "videosys.*"]),
    package_data={
        "videosys": [
            "py.typed",
            "*.pyi",
            "*/__init__.pyi",
            "**/*.json",
            "metrics/*.safetensors",
            "metrics/LICENSE.*",
            "tiny/**/*.safetensors",
            "tiny/**/*.model",
            "tiny/**/*.txt",
            "serve/page/*",
        ]
    },
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=DEPENDENCIES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["videosys = videosys.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
