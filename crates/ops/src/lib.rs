//! Maths on buffers: the operations a GPT is made of, forward and backward
