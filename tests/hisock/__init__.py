"""Tests of the HiSock layer."""
