package keepmq.interop; final class Interop { public static void main(String[] a) {} }
