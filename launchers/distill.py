"""Entry script: `deepspeed --num_gpus N launchers/distill.py CONFIG [key=value ...]`."""

from mbkd.train.job import main

if __name__ == "__main__":
    for directory in main():
        print(directory)
